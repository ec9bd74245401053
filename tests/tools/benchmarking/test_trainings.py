"""Solves along trainings, on the first operators of one."""

import numpy as np
import pytest
import tensorflow as tf

from tools.benchmarking import trainings

NAME = "fully connected, Adam, large rate"


def test_reference_is_the_largest_eigenvalue():
    matvec, size = next(trainings.TRAININGS[NAME].operators(1))
    dense = np.stack([matvec(row).numpy() for row in tf.eye(size)]).astype(float)
    np.testing.assert_allclose(dense, dense.T, atol=1e-4 * np.abs(dense).max())
    expected = np.linalg.eigvalsh((dense + dense.T) / 2.0)[-1]
    assert trainings.largest_eigenvalue(matvec, size) == pytest.approx(expected, rel=1e-5)


def test_every_solve_after_the_first_is_judged():
    for rtol, table in trainings.solve_training(NAME, (1e-2, 1e-3), 3).items():
        assert len(table) == 2
        assert table["converged"].all()
        assert table["bounded"].all()
        assert (table["error"].abs() <= rtol).all()
