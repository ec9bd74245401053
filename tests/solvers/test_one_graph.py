"""Solves whose products are part of one graph, and those that call them from Python."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.operators import Operator, Program
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import RandomDirections

SIZE = 300


def outliers(top, size=SIZE):
    """A bulk in [-1, 1] and a few others."""
    values = np.random.default_rng(0).uniform(-1.0, 1.0, size)
    values[: len(top)] = top
    return values


class Diagonal:
    """A diagonal operator in both forms; counts how often Python computes a product."""

    def __init__(self):
        self.num_calls = 0
        self.program = Program(self.product)

    def product(self, vector, diagonal):
        self.num_calls += 1
        return diagonal * vector

    def operator(self, values, dtype=tf.float64):
        return Operator(self.program, [tf.constant(values, dtype)])


DIAGONAL = Diagonal()


def by_hand(values, rtol, margin, max_hvps=100):
    """Textbook Lanczos, with the growth of the certificate as a product of differences.

    Returns:
        Number of products, Ritz values, residual norm of the first, upper bound.
    """
    vector = RandomDirections(len(values), tf.float64, seed=0)().numpy()
    needed = math.log(math.sqrt(2.0 * len(values) / math.pi) / 0.01)
    basis, betas = [], []
    for _ in range(max_hvps):
        basis.append(vector)
        rows = np.stack(basis)
        rest = values * vector
        for _ in range(3):
            rest = rest - rows.T @ (rows @ rest)
        betas.append(np.linalg.norm(rest))
        vector = rest / betas[-1]
        ritz, vectors = np.linalg.eigh(rows * values @ rows.T)
        residual = betas[-1] * abs(vectors[-1, -1])

        def growth(number, ritz=ritz):
            return np.sum(np.log(np.abs(number - ritz))) - np.sum(np.log(betas))

        above = ritz[-1] + margin * abs(ritz[-1])
        if residual <= rtol * abs(ritz[-1]) and growth(above) >= needed:
            break
    bounds = ritz[-1] + abs(ritz).max() * np.geomspace(1e-12, 1e3, 200_000)
    bound = next(number for number in bounds if growth(number) >= needed)
    return len(basis), ritz[::-1], residual, bound


@pytest.mark.parametrize("in_graph", [True, False])
@pytest.mark.parametrize("top", [[20.0], [9.0, 8.0, -30.0, -25.0], [10.0, 9.5], [-1.0]])
def test_numbers_are_those_of_the_recurrence_by_hand(top, in_graph):
    values = outliers(top)
    operator = DIAGONAL.operator(values)
    matvec = operator if in_graph else (lambda v: operator(v))
    result = lanczos(matvec, tf.zeros([0, SIZE], tf.float64), 1, 1e-4, 19)
    num_hvps, ritz, residual, bound = by_hand(values, 1e-4, 30.0 * 1e-4, 19)
    assert result.num_hvps == num_hvps
    np.testing.assert_allclose(result.ritz_values, ritz, atol=1e-11 * np.abs(ritz).max())
    assert result.error_bounds[0] == pytest.approx(residual / abs(ritz[0]), rel=1e-6, abs=1e-12)
    assert result.upper_bound - ritz[0] == pytest.approx(bound - ritz[0], rel=2e-3)


# name: (spectrum, k, number of old vectors)
CASES = {
    "cold": (outliers([20.0, 15.0]), 1, 0),
    "warm": (outliers([20.0, 15.0]), 1, 1),
    "several": (outliers([20.0, 17.0, 13.0, 9.0, 6.0, 4.0]), 5, 3),
    "restarts": (np.linspace(0.0, 1.0, SIZE), 2, 0),
    "exhausted": (np.repeat([5.0, 1.0, 0.0], [3, 100, SIZE - 103]), 3, 0),
    "zero": (np.zeros(SIZE), 1, 0),
}


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("name", CASES)
def test_graph_and_python_agree(name, dtype):
    values, count, num_old = CASES[name]
    start = tf.one_hot(range(num_old), SIZE, dtype=dtype)
    operator = DIAGONAL.operator(values, dtype)
    results = [
        lanczos(matvec, start, count, 1e-3, 150) for matvec in (operator, lambda v: operator(v))
    ]
    assert results[0].num_hvps == results[1].num_hvps
    rtol = 1e4 * np.finfo(dtype.as_numpy_dtype).eps
    for result in results:
        expected = np.sort(values)[::-1][:count]
        np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-3)
        assert result.converged.all()
    np.testing.assert_allclose(results[0].ritz_values, results[1].ritz_values, atol=25.0 * rtol)


def test_operators_of_one_program_are_traced_once():
    """Cold, warm, with other values, tolerances and limits, and for other numbers of pairs."""
    diagonal = Diagonal()
    tracker = EigenpairTracker("lanczos", 1e-3, 100)
    for step in range(12):
        tracker.max_hvps = 100 if step < 6 else 8
        operator = diagonal.operator(outliers([20.0 + step, 10.0]))
        result = tracker.solve("A", operator, tf.zeros([SIZE], tf.float64), 1 + step % 3, seed=step)
        assert result.num_hvps > 1
        np.testing.assert_allclose(result.eigenvalues[0], 20.0 + step, rtol=1e-3)
    assert len(diagonal.program.traces) == 1
    assert diagonal.num_calls == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("after", [None, 0, 4])
def test_product_that_is_not_finite_ends_the_loop(bad, after):
    """In the graph (None); from Python at once, and after some good products."""
    operator = DIAGONAL.operator(np.append(outliers([20.0, 15.0])[1:], bad))
    good = tf.constant(outliers([20.0, 15.0]))
    count = iter(range(after or 0))
    matvec = (
        operator
        if after is None
        else (lambda vector: operator(vector) if next(count, None) is None else good * vector)
    )
    result = lanczos(matvec, tf.zeros([0, SIZE], tf.float64), 2, 1e-9, 50)
    assert result.num_hvps == (after or 0) + 1
    assert np.isnan(result.eigenvalues).all()
    assert np.isnan(result.upper_bound)
    assert not result.converged.any()
    assert result.eigenvectors == []


def test_vectors_given_to_a_function_are_its_own():
    """The solver overwrites its basis at a restart, and not what it handed out."""
    values = tf.constant(np.linspace(0.0, 1.0, SIZE))
    given, copies = [], []

    def matvec(vector):
        given.append(vector)
        copies.append(vector.numpy().copy())
        return values * vector

    lanczos(matvec, tf.zeros([0, SIZE], tf.float64), 1, 1e-9, 50)
    assert len(given) == 50
    for vector, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(vector, copy)


def test_tensorflow_does_not_warn_of_the_traces_of_many_operators(monkeypatch):
    """Each has a graph of its own, as each model has."""
    warned, start = [], tf.zeros([0, SIZE], tf.float64)
    monkeypatch.setattr(tf.get_logger(), "warning", lambda message, *_: warned.append(message))
    for _ in range(6):
        lanczos(Diagonal().operator(outliers([9.0])), start, 1, 1e-2, 50)
    assert warned == []
