"""The eigensolvers on operators whose spectrum is known."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.solvers import SOLVERS, krylov
from keras_aeos.solvers.density import lanczos_quadrature
from keras_aeos.solvers.krylov import _start_vector
from keras_aeos.solvers.lanczos import _settings, lanczos
from keras_aeos.solvers.trace import hutch_plus_plus
from keras_aeos.solvers.tracking import EigenpairTracker
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


# Power iteration takes thousands of products for them.
HARD_FOR_POWER = ("one outlier", "all negative", "small scale")


def operator(values, seed=0):
    """A dense symmetric operator with these eigenvalues, and its eigenvectors as columns."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    matrix = tf.constant(basis * values @ basis.T)
    return lambda v: tf.linalg.matvec(matrix, v), basis


def no_start(size):
    return tf.zeros([0, size], tf.float64)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        pytest.param(solver, name, marks=pytest.mark.slow)
        if solver == "power" and name in HARD_FOR_POWER
        else (solver, name)
        for solver in SOLVERS
        for name in SPECTRA
    ],
)
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
    """Even from exact old eigenvectors, which stay eigenvectors; six random cases each."""
    for case in range(6):
        generator = np.random.default_rng(case)
        values = outliers([10.0, 9.0, 8.0])
        matvec, basis = operator(values, case)
        newcomer = generator.integers(3, SIZE)
        values[newcomer] = generator.uniform(10.5, 13.0)
        matvec, basis = operator(values, case)
        old = tf.constant(basis[:, :3].T)
        result = SOLVERS[solver](matvec, old, 1, 1e-3, 200, seed=case)
        np.testing.assert_allclose(result.eigenvalues, values[newcomer], rtol=1e-3)


@pytest.mark.parametrize("num_old", [1, 2, 4])
@pytest.mark.parametrize(("count", "rtol"), [(1, 1e-2), (1, 1e-3), (3, 1e-3)])
def test_random_part_of_a_start_is_what_the_certificate_is_told(count, rtol, num_old):
    """The rest of the start vector lies in the space of the old vectors."""
    old = operator(outliers([10.0], size=40))[1][:, :num_old]
    start = tf.constant(old.T)
    vector, fraction = _start_vector(start, _settings(start, count, rtol, 200, 3, 4.0))
    rest = (vector - fraction * RandomDirections(40, tf.float64, 3)()).numpy()
    assert 0.0 < fraction < 1.0
    assert np.linalg.norm(vector) == pytest.approx(1.0)
    np.testing.assert_allclose(old @ (old.T @ rest), rest, atol=1e-12)
    assert np.linalg.norm(rest) > 0.1


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
    basis = Vectors([vector])
    for _ in range(20):
        product, length, _ = basis.orthogonalise(values * vector)
        vector = product / length
        basis.append(vector)
    rows = np.concatenate(basis._blocks).astype(float)
    assert np.abs(rows @ rows.T - np.eye(21)).max() <= 1e-5


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


# ------------------------------------------------------------------------- what a solve claims


def rounded(vector, bits):
    """A float32 vector with so many bits of mantissa, by arithmetic on NumPy's side."""
    mantissa, exponent = np.frexp(np.asarray(vector))
    return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)


def noisy(values, bits):
    """A float32 operator whose products pass through factors rounded to so many bits.

    ``A v = Bᵀ(D(B v))``, each of the three rounded, like a network's forward and backward pass.
    """
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values),) * 2))

    def matvec(vector):
        inner = rounded(basis.T @ rounded(vector, bits), bits)
        return tf.constant(rounded(basis @ rounded(values * inner, bits), bits), tf.float32)

    return matvec


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bits", [23, 10, 7])
def test_bounds_include_the_rounding_of_the_products(solver, bits):
    """float32, TF32 or float16, and bfloat16: the operator without rounding is the oracle."""
    for top in ([20.0], [20.0, 19.0, 10.0], [5.0, 4.0, -20.0]):
        values = outliers(top)
        start = tf.zeros([0, SIZE], tf.float32)
        for seed in range(4):
            result = SOLVERS[solver](noisy(values, bits), start, 1, 1e-6, 60, seed=seed)
            nearest = np.abs(values - result.eigenvalues[0]).min() / abs(result.eigenvalues[0])
            assert nearest <= result.error_bounds[0] <= result.residuals[0]
            assert (result.error_bounds[0] <= 1e-6) >= result.converged[0]
            assert not result.upper_bound < values.max()


@pytest.mark.parametrize("bits", [23, 10])
def test_rounding_ends_a_solve_that_it_keeps_from_converging(bits):
    values = outliers([20.0])
    result = lanczos(noisy(values, bits), tf.zeros([0, SIZE], tf.float32), 1, 1e-9, 1000)
    assert not result.converged[0]
    assert result.num_hvps < 40


def test_float32_converges_at_the_default_tolerance():
    """The rounding of float32 takes less than a hundredth of 1e-3."""
    result = lanczos(noisy(outliers([20.0]), 23), tf.zeros([0, SIZE], tf.float32), 1, 1e-3, 100)
    assert result.converged[0]
    assert 0.0 < result.residuals[0] - result.error_bounds[0] < 2e-5


def crossing(seed, num_steps=12):
    """Diagonal operators whose two largest eigenvalues, 5 to 20 % apart, approach and cross."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(-0.1, 0.35, 2000)
    for step in range(num_steps):
        values[:2] = 1.0 - 0.008 * step, 0.93 + 0.008 * step
        yield values.copy()


@pytest.mark.parametrize(
    ("rtol", "max_hvps", "follow"), [(1e-2, 8, False), (1e-2, 8, True), (1e-3, 100, False)]
)
def test_nearest_eigenvalue_is_within_the_bound_where_two_cross(rtol, max_hvps, follow):
    """A Ritz vector that mixes two eigenvectors shows no gap to the other one."""
    num_converged = 0
    for seed in range(4):
        tracker = EigenpairTracker("lanczos", rtol, max_hvps)
        for step, values in enumerate(crossing(seed)):
            diagonal = tf.constant(values)
            like = tf.zeros([2000], tf.float64)
            result = tracker.solve(
                "A", functools.partial(tf.multiply, diagonal), like, 1, 100 * seed + step, follow
            )
            nearest = np.abs(values - result.eigenvalues[0]).min() / result.eigenvalues[0]
            assert nearest <= result.error_bounds[0]
            tolerance = 2.0 * rtol if result.followed else rtol
            assert (result.error_bounds[0] <= tolerance) >= result.converged[0]
            num_converged += result.converged[0]
            top = np.sort(values)[::-1]
            if np.isfinite(result.spectral_gap):
                assert result.spectral_gap == pytest.approx(top[0] / top[1], rel=3 * rtol)
    assert num_converged >= 40


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_spectral_gap_is_that_of_converged_eigenvalues(solver, count):
    values = outliers([20.0, 16.0, 10.0])
    matvec, _ = operator(values)
    result = SOLVERS[solver](matvec, no_start(SIZE), count, 1e-3, 400)
    if count == 2:
        assert result.spectral_gap == pytest.approx(1.25, rel=2e-3)
    early = SOLVERS[solver](matvec, no_start(SIZE), count, 1e-3, 2 * count + 2)
    assert np.isnan(early.spectral_gap)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7])
def test_small_beside_a_negative_end_is_converged_only_within_its_bound(solver, ratio):
    values = np.append([1.0], -np.linspace(0.5, 1.0, SIZE - 1) * ratio)
    start = tf.zeros([0, SIZE], tf.float32)
    result = SOLVERS[solver](noisy(values, 23), start, 1, 1e-3, 60)
    assert not result.converged[0] or result.error_bounds[0] <= 1e-3 or ratio == 1e7


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_parameters_warm_and_cold(solver, seed, size):
    """The random direction of a warm start may be the old vector's negative."""
    values = np.array([2.0, -3.0, 1.0])[:size]
    matvec, _ = operator(values)
    tracker = EigenpairTracker(solver, 1e-3, 20)
    for step in range(4):
        result = tracker.solve("A", matvec, tf.zeros([size], tf.float64), 1, 10 * seed + step)
        assert result.eigenvalues[0] == pytest.approx(2.0, rel=1e-3)
        assert result.converged.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_trace_and_density_of_products_that_are_not_finite(bad):
    matvec, like = lambda v: v * bad, tf.ones([10], tf.float64)
    density = lanczos_quadrature(matvec, like, 2, 5)
    fractions, errors = density.histogram(density.edges())
    assert np.isnan(fractions).all()
    assert np.isnan(errors).all()
    pairs = lanczos(matvec, no_start(10), 1, 1e-3, 5)
    trace = hutch_plus_plus(matvec, pairs.eigenvectors, pairs.eigenvalues, 2)
    assert np.isnan([trace.value, trace.error]).all()


@pytest.mark.parametrize("count", [1, 4, 5, 10])
def test_few_products_a_row_reach_any_number_of_eigenvalues(count):
    """Eight for each eigenvalue, rows resumed from the last one, as with update_freq="auto"."""
    from keras_aeos.callbacks.schedule import max_hvps

    values = outliers(list(20.0 * 0.8 ** np.arange(12)), bulk=1.0)
    matvec, _ = operator(values)
    tracker = EigenpairTracker("lanczos", 1e-2, max_hvps(count))
    for step in range(4):
        result = tracker.solve("A", matvec, tf.zeros([SIZE], tf.float64), count, step)
    assert result.converged.all()
    np.testing.assert_allclose(result.eigenvalues, np.sort(values)[::-1][:count], rtol=1e-2)


@pytest.mark.parametrize(("count", "max_hvps"), [(1, 90), (5, 90), (1, 8)])
def test_basis_of_a_solve_is_bounded(count, max_hvps, monkeypatch):
    """By the vectors of a full basis, and by the products."""
    states = []
    loop = krylov._loop

    def recorded(*given):
        states.append(loop(*given))
        return states[-1]

    monkeypatch.setattr(krylov, "_loop", recorded)
    matvec, _ = operator(np.linspace(0.0, 1.0, SIZE))
    result = lanczos(matvec, no_start(SIZE), count, 1e-6, max_hvps)
    assert result.num_hvps == max_hvps
    assert states[0].rows.shape[0] == min(max(20, 2 * count + 10), max_hvps)
    assert len(result.eigenvectors) + len(result.guard_vectors) == count + 3
