"""The reference runs that solves are compared with."""

import numpy as np
import pytest
import tensorflow as tf

from tools.benchmarking.reference_solvers import tune_lanczos
from tools.benchmarking.solves import reference_run


@pytest.mark.parametrize("num_values", [2, 3, 4])
def test_in_hindsight_as_many_products_do_as_there_are_eigenvalues(num_values):
    """A Krylov space is invariant once it has a vector of each of a few equidistant eigenvalues."""
    values = tf.constant(np.linspace(0.0, 2.0, num_values)[np.arange(600) % num_values], tf.float32)
    start = tf.random.stateless_normal([600], seed=[3, 0])
    matrix = reference_run(lambda v: values * v, start)
    assert tune_lanczos([matrix], 2.0) == num_values


def test_the_reference_is_the_largest_eigenvalue():
    dense = np.random.default_rng(0).standard_normal((200, 200))
    dense = (dense + dense.T) / 2.0 + 30.0 * np.eye(200)
    matrix = reference_run(
        lambda v: tf.linalg.matvec(tf.constant(dense, tf.float32), v),
        tf.random.stateless_normal([200], seed=[3, 0]),
    )
    exact = np.linalg.eigvalsh(dense)[-1]
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[-1], exact, rtol=1e-5)
