"""The comparison with peers: its solvers, its tuning and its table, without any of the peers."""

import numpy as np
import pytest

from tools import peers
from tools.benchmarking import reference_solvers as solvers

VALUES = np.concatenate([[10.0, 8.0], np.linspace(-1.0, 1.0, 58)])
MATRIX = np.diag(VALUES)
START = np.random.default_rng(0).standard_normal(len(VALUES))


def product(vector):
    return MATRIX @ vector


@pytest.fixture(scope="module")
def matrices():
    return [solvers.tridiagonal(product, START, 30)[0]]


def test_tridiagonal_is_the_matrix_in_an_orthonormal_basis():
    matrix, basis = solvers.tridiagonal(product, START, 30)
    np.testing.assert_allclose(basis @ basis.T, np.eye(30), atol=1e-12)
    np.testing.assert_allclose(basis @ MATRIX @ basis.T, matrix, atol=1e-12)
    assert np.linalg.eigvalsh(matrix)[-1] == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize(("tol", "limit", "num_products"), [(0.0, 7, 7), (0.9, 100, 2)])
def test_power_iteration_ends_at_the_tolerance_or_the_limit(tol, limit, num_products):
    counted = solvers.Counted(product)
    solvers.power(counted, np.ones(len(VALUES)) + 100.0 * MATRIX[0], tol, limit)
    assert counted.count == num_products


def test_tuned_power_iteration_is_the_shortest_one_that_reaches_the_tolerance(matrices):
    number = solvers.tune_power(matrices, 10.0)
    errors = [abs(solvers.power(product, START, 0.0, n) / 10.0 - 1.0) for n in (number - 1, number)]
    assert errors[1] <= solvers.TOLERANCE < errors[0]


@pytest.mark.parametrize("exact", [[10.0], [8.0, 10.0]])
def test_tuned_lanczos_is_the_shortest_one_that_reaches_the_tolerance(matrices, exact):
    number = solvers.tune_lanczos(matrices, exact)
    errors = [
        np.max(np.abs(np.linalg.eigvalsh(run)[-len(exact) :] / exact - 1.0))
        for run, _ in (solvers.tridiagonal(product, START, n) for n in (number - 1, number))
    ]
    assert errors[1] <= solvers.TOLERANCE < errors[0]


def test_tuned_arpack_reaches_the_tolerance_with_fewer_products(matrices):
    pytest.importorskip("scipy")
    tuned, default = solvers.Counted(product), solvers.Counted(product)
    value = solvers.arpack(tuned, START, **solvers.tune_arpack(matrices, 10.0))
    assert value == pytest.approx(10.0, rel=solvers.TOLERANCE)
    assert solvers.arpack(default, START) == pytest.approx(10.0, rel=1e-12)
    assert tuned.count < default.count


@pytest.mark.parametrize(
    ("losses", "wrong"), [({"a": 1.0, "b": 1.00005}, ""), ({"a": 1.0, "b": 1.0002}, "of b")]
)
def test_losses_that_differ_are_named(losses, wrong):
    line = peers.disagreement(losses)
    assert wrong in line
    assert bool(line) == bool(wrong)


def test_a_missing_package_is_named_with_the_reason():
    reasons = peers.unavailable(["numpy", "no_such_package"])
    assert list(reasons) == ["no_such_package"]
    assert "ModuleNotFoundError" in reasons["no_such_package"]


def test_table_has_a_row_a_contender():
    rows = {
        ("a", "default"): (1.24e-4, 11, 30.04, 1.0, 0.56, "residual"),
        ("b", "tuned, tol=0.1"): (1e-3, 9.0, 20.0, 0.456, None, "no"),
    }
    header, rule, *body = peers.markdown(rows).splitlines()
    assert header.count("|") == rule.count("|") == len(peers.COLUMNS) + 3
    assert body == [
        "| a | default | 1.2e-04 | 11 | 30.0 | 1.00 | 0.6 | residual |",
        "| b | tuned, tol=0.1 | 1.0e-03 | 9 | 20.0 | 0.46 | none | no |",
    ]
