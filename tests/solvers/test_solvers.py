"""The eigensolvers on operators whose spectrum is known."""

import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.solvers import SOLVERS
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.vectors import RandomDirections, Vectors, unit

SIZE = 400


def outliers(top, bulk=1.0, size=SIZE):
    """A spectrum like a network's: a few large eigenvalues and a bulk around zero."""
    values = np.random.default_rng(0).uniform(-bulk, bulk, size)
    values[: len(top)] = top
    return values


# name: (spectrum, k)
SPECTRA = {
    "one outlier": (outliers([20.0]), 1),
    "dominant negative end": (outliers([9.0, 8.0, -30.0, -25.0, -11.0]), 2),
    "rival negative end": (outliers([10.0, 6.0, -10.0]), 1),
    "nearly rival negative end": (outliers([10.0, 6.0, -9.9]), 1),
    "close top": (outliers([10.0, 9.8, 9.6]), 1),
    "several": (outliers([20.0, 17.0, 13.0, 9.0, 6.0, 4.0]), 5),
    "all negative": (np.append(-1.0, -np.linspace(5.0, 30.0, SIZE - 1)), 1),
    "power law": (10.0 / np.arange(1, SIZE + 1), 3),
    "tiny operator": (np.array([3.0, 1.0]), 1),
    "whole spectrum": (np.array([3.0, -5.0, 1.0]), 3),
    "single parameter": (np.array([2.0]), 1),
    "small scale": (1e-12 * outliers([20.0, -30.0]), 1),
}


def operator(values, seed=0):
    """A dense symmetric operator with these eigenvalues, and its eigenvectors as columns."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    matrix = tf.constant(basis * values @ basis.T)
    return lambda v: tf.linalg.matvec(matrix, v), basis


def no_start(size):
    return tf.zeros([0, size], tf.float64)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("solver", SOLVERS)
def test_largest_means_most_positive(solver, name):
    values, count = SPECTRA[name]
    matvec, _ = operator(values)
    result = SOLVERS[solver](matvec, no_start(len(values)), count, 1e-6, 4000)
    expected = np.sort(values)[::-1][:count]
    assert result.converged.all()
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-6)
    for value, vector, residual in zip(
        result.eigenvalues, result.eigenvectors, result.residuals, strict=True
    ):
        error = np.linalg.norm(matvec(vector) - value * vector) / abs(value)
        assert residual == pytest.approx(error, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start_finds_an_eigenvector_that_has_overtaken(solver):
    """Even from exact old eigenvectors, which stay eigenvectors; 20 random cases each."""
    for case in range(20):
        generator = np.random.default_rng(case)
        values = outliers([10.0, 9.0, 8.0])
        matvec, basis = operator(values, case)
        newcomer = generator.integers(3, SIZE)
        values[newcomer] = generator.uniform(10.5, 13.0)
        matvec, basis = operator(values, case)
        old = tf.constant(basis[:, :3].T)
        result = SOLVERS[solver](matvec, old, 1, 1e-3, 200, seed=case)
        np.testing.assert_allclose(result.eigenvalues, values[newcomer], rtol=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_warm_start_saves_products(count):
    top = [10.0, 9.7, 9.4]
    matvec, basis = operator(outliers(top, bulk=3.0))
    cold = lanczos(matvec, no_start(SIZE), count, 1e-3, 200)
    warm = lanczos(matvec, tf.constant(basis[:, :count].T), count, 1e-3, 200, margin=1.0)
    assert warm.num_hvps < cold.num_hvps
    np.testing.assert_allclose(warm.eigenvalues, top[:count], rtol=1e-3)


def test_only_a_cold_start_looks_between_the_eigenvalues():
    """With the same margin above λ₁: that no pair of close ones hides a third takes products."""
    top = [10.0, 8.0, 7.99]
    matvec, basis = operator(outliers(top, bulk=3.0))
    old = tf.constant(basis[:, :3].T)
    careful, quick = (lanczos(matvec, old, 3, 1e-3, 200, margin=m) for m in (None, 30.0 * 1e-3))
    assert quick.num_hvps < careful.num_hvps
    for result in careful, quick:
        assert result.converged.all()
        np.testing.assert_allclose(result.eigenvalues, top, rtol=1e-3)


def test_repeated_eigenvalue_is_found_once_the_space_is_exhausted():
    matvec, _ = operator(np.array([5.0, 5.0, 5.0, 1.0, 0.0]))
    result = lanczos(matvec, no_start(5), 3, 1e-6, 100)
    np.testing.assert_allclose(result.eigenvalues, [5.0, 5.0, 5.0], rtol=1e-9)


def test_zero_operator():
    for solver in SOLVERS.values():
        result = solver(tf.zeros_like, no_start(10), 1, 1e-3, 100)
        assert result.eigenvalues == [0.0]
        assert result.residuals == [0.0]
        assert result.converged.all()


def test_float32_basis_stays_orthogonal_over_restarts():
    values = np.linspace(0.0, 1.0, 2000).astype(np.float32)
    result = lanczos(
        lambda v: tf.constant(values) * v, tf.zeros([0, 2000], tf.float32), 4, 1e-4, 600
    )
    vectors = np.stack([v.numpy() for v in result.eigenvectors])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(result.eigenvalues, values[::-1][:4], rtol=1e-4)


def network_like(size):
    """A float32 spectrum with outliers over a bulk four orders of magnitude smaller."""
    values = 1e-4 * np.random.default_rng(0).standard_normal(size)
    values[:60] = 0.9 ** np.arange(60)
    return tf.constant(values, tf.float32)


@pytest.mark.parametrize("num_old", [0, 4])
def test_float32_basis_stays_orthogonal_over_a_cycle(num_old):
    """Where components are removed once alone, the loss grows from vector to vector."""
    size = 20_000
    values = network_like(size)
    old = tf.reduce_sum(tf.one_hot(range(num_old), size), 0)
    vector = unit(RandomDirections(size, tf.float32, 0)() + old)
    basis = Vectors(vector[None])
    for _ in range(20):
        product, length, _ = basis.orthogonalise(values * vector)
        vector = product / length
        basis.append(vector)
    rows = basis.combine(np.eye(len(basis))).numpy().astype(float)
    assert np.abs(rows @ rows.T - np.eye(len(basis))).max() <= 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_operator_that_is_not_finite(solver):
    result = SOLVERS[solver](lambda v: v * np.nan, no_start(10), 2, 1e-3, 100)
    assert np.isnan(result.eigenvalues).all()
    assert not result.converged.any()
    assert result.eigenvectors == []


@pytest.mark.parametrize("left", [1e-3, 0.05, 0.5])
def test_orthogonalise_keeps_precision_however_little_is_left(left):
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((2000, 22)))
    old, new = basis[:, :21].astype(np.float32), basis[:, 21].astype(np.float32)
    coefficients = generator.standard_normal(21)
    coefficients *= np.sqrt(1.0 - left**2) / np.linalg.norm(coefficients)
    vector = tf.constant(old @ coefficients.astype(np.float32) + np.float32(left) * new)

    rest, norm, components = Vectors(tf.constant(old.T)).orthogonalise(vector)
    np.testing.assert_allclose(components, coefficients, atol=1e-6)
    np.testing.assert_allclose(norm, left, rtol=1e-3)
    assert np.abs(old.T @ rest.numpy()).max() <= 2e-6 * norm
