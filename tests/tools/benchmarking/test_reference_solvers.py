"""The textbook solvers of the comparison with peers, and how they are tuned."""

import numpy as np
import pytest

from tools.benchmarking import reference_solvers

VALUES = np.concatenate([[10.0, 8.0], np.linspace(-1.0, 1.0, 58)])
MATRIX = np.diag(VALUES)
START = np.random.default_rng(0).standard_normal(len(VALUES))


def product(vector):
    return MATRIX @ vector


@pytest.fixture(scope="module")
def matrices():
    return [reference_solvers.tridiagonal(product, START, 30)[0]]


def test_tridiagonal_is_the_matrix_in_an_orthonormal_basis():
    matrix, basis = reference_solvers.tridiagonal(product, START, 30)
    np.testing.assert_allclose(basis @ basis.T, np.eye(30), atol=1e-12)
    np.testing.assert_allclose(basis @ MATRIX @ basis.T, matrix, atol=1e-12)
    assert np.linalg.eigvalsh(matrix)[-1] == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize(("tol", "limit", "num_products"), [(0.0, 7, 7), (0.9, 100, 2)])
def test_power_iteration_ends_at_the_tolerance_or_the_limit(tol, limit, num_products):
    counted = reference_solvers.Counted(product)
    reference_solvers.power(counted, np.ones(len(VALUES)) + 100.0 * MATRIX[0], tol, limit)
    assert counted.count == num_products


def test_tuned_power_iteration_is_the_shortest_one_that_reaches_the_tolerance(matrices):
    number = reference_solvers.tune_power(matrices, 10.0)
    errors = [
        abs(reference_solvers.power(product, START, 0.0, n) / 10.0 - 1.0)
        for n in (number - 1, number)
    ]
    assert errors[1] <= reference_solvers.TOLERANCE < errors[0]


@pytest.mark.parametrize("exact", [[10.0], [8.0, 10.0]])
def test_tuned_lanczos_is_the_shortest_one_that_reaches_the_tolerance(matrices, exact):
    number = reference_solvers.tune_lanczos(matrices, exact)
    errors = [
        np.max(np.abs(np.linalg.eigvalsh(run)[-len(exact) :] / exact - 1.0))
        for run, _ in (
            reference_solvers.tridiagonal(product, START, n) for n in (number - 1, number)
        )
    ]
    assert errors[1] <= reference_solvers.TOLERANCE < errors[0]


def test_tuned_arpack_reaches_the_tolerance_with_fewer_products(matrices):
    pytest.importorskip("scipy")
    tuned, default = reference_solvers.Counted(product), reference_solvers.Counted(product)
    value = reference_solvers.arpack(tuned, START, **reference_solvers.tune_arpack(matrices, 10.0))
    assert value == pytest.approx(10.0, rel=reference_solvers.TOLERANCE)
    assert reference_solvers.arpack(default, START) == pytest.approx(10.0, rel=1e-12)
    assert tuned.count < default.count
