"""Solves that follow the eigenvectors of the last ones."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.operators import Operator, Program
from keras_aeos.solvers.tracking import EigenpairTracker

SIZE = 400
PROGRAM = Program(lambda vector, matrix: tf.linalg.matvec(matrix, vector))


def turning(seed, num_steps, turn=0.02, growth=1.05):
    """Dense operators with outliers, whose eigenvectors turn while the eigenvalues grow."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(-0.1, 0.1, SIZE)
    values[:4] = 1.0, 0.8, 0.5, -0.7
    basis, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    for step in range(num_steps):
        noise = generator.standard_normal((SIZE, SIZE)) * turn / np.sqrt(SIZE)
        basis, _ = np.linalg.qr(basis + basis @ (noise - noise.T))
        yield (basis * values * growth**step) @ basis.T


def product(matrix):
    return Operator(PROGRAM, [tf.constant(matrix)])


def track(tracker, matrices, follow=True, num_eigenvalues=1):
    like = tf.zeros([SIZE], tf.float64)
    for step, matrix in enumerate(matrices):
        yield tracker.solve("A", product(matrix), like, num_eigenvalues, step, follow)


def test_two_of_three_follow_and_every_tenth_is_certified():
    solved = list(track(EigenpairTracker("lanczos", 1e-2, 100), turning(0, 22)))
    followed = [step for step, result in enumerate(solved) if result.followed]
    assert followed == [2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 21]
    for step, result in enumerate(solved):
        assert np.isnan(result.upper_bound) == result.followed
        assert result.converged.all()
        if step % 10 == 0:
            assert result.upper_bound <= 1.3 * result.eigenvalues[0]


@pytest.mark.parametrize(
    ("solver", "rtol", "num_eigenvalues", "follow"),
    [
        ("lanczos", 1e-2, 1, False),  # an operator that is solved too rarely
        ("lanczos", 9e-3, 1, True),
        ("lanczos", 1e-2, 2, True),
        ("power", 1e-2, 1, True),
    ],
)
def test_other_solves_always_look_elsewhere(solver, rtol, num_eigenvalues, follow):
    tracker = EigenpairTracker(solver, rtol, 100)
    solved = track(tracker, turning(0, 4), follow, num_eigenvalues)
    assert not any(result.followed for result in solved)


@pytest.mark.parametrize("turn", [0.003, 0.03, 0.1])
def test_following_finds_the_same_with_fewer_products(turn):
    matrices = list(turning(1, 20, turn))
    largest = [np.linalg.eigvalsh(matrix)[-1] for matrix in matrices]
    num_hvps = {}
    for follow in (True, False):
        solved = list(track(EigenpairTracker("lanczos", 1e-2, 100), matrices, follow))
        for result, expected in zip(solved, largest, strict=True):
            assert result.eigenvalues[0] == pytest.approx(expected, rel=1e-2)
            assert abs(1.0 - result.eigenvalues[0] / expected) <= result.error_bounds[0]
        num_hvps[follow] = [
            result.num_hvps for step, result in enumerate(solved) if step % 3 != 1 and step % 10
        ]
    assert np.mean(num_hvps[True]) <= 0.6 * np.mean(num_hvps[False])


def test_what_rises_elsewhere_is_found_by_the_next_solve_that_looks():
    """The newcomer is orthogonal to what is followed, and larger from the second solve on."""
    values = np.append([1.0, 0.9], np.linspace(-0.2, 0.2, SIZE - 2))
    tracker = EigenpairTracker("lanczos", 1e-2, 100)
    found = []
    for step in range(8):
        values[-1] = 1.5 if step > 1 else 0.2
        (result,) = track(tracker, [np.diag(values)])
        found.append(float(result.eigenvalues[0]))
        if result.followed and step < 4:
            assert result.num_hvps == 1  # the old eigenvector is still one
    np.testing.assert_allclose(found, [1.0] * 4 + [1.5] * 4, rtol=1e-3)


def test_following_ends_at_twice_the_tolerance():
    solved = list(track(EigenpairTracker("lanczos", 1e-2, 100), turning(0, 20, turn=0.1)))
    bounds = {
        followed: [result.error_bounds[0] for result in solved if result.followed == followed]
        for followed in (True, False)
    }
    assert 1e-2 < max(bounds[True]) <= 2e-2
    assert max(bounds[False]) <= 1e-2
    assert all(result.converged[0] for result in solved)


def test_guards_outlive_solves_that_follow():
    """A solve that looks again starts from the best vectors of the last one that did."""
    tracker = EigenpairTracker("lanczos", 1e-2, 100)
    matrices = list(turning(2, 4))
    list(track(tracker, matrices[:2]))
    guards = tracker._last["A"][1:].numpy()
    for result in track(tracker, matrices[2:]):
        assert result.followed
        kept = tracker._last["A"].numpy()
        np.testing.assert_array_equal(kept[0], result.eigenvectors[0].numpy())
        np.testing.assert_array_equal(kept[1:], guards)


@pytest.mark.parametrize("values", [[0.0] * 5, [-1.0, -2.0, -3.0], [2.0]])
def test_following_ends_in_an_exhausted_space(values):
    matrix, size = np.diag(values), len(values)
    old = tf.one_hot([0], size, dtype=tf.float64)
    result = lanczos(product(matrix), old, 1, 1e-2, 20, margin=math.inf)
    assert result.num_hvps == 1
    assert result.eigenvalues[0] == values[0]
    assert result.converged.all()


def test_following_goes_on_over_restarts():
    """An old vector that is far off, in a spectrum too dense for one basis."""
    values = np.linspace(0.0, 1.0, SIZE)
    old = tf.constant(np.ones([1, SIZE]) / np.sqrt(SIZE))
    result = lanczos(product(np.diag(values)), old, 1, 1e-4, 200, margin=math.inf)
    assert result.num_hvps > 20
    assert result.converged.all()
    assert result.eigenvalues[0] == pytest.approx(1.0, rel=1e-4)


def test_following_gives_nan_where_products_are_not_finite():
    old = tf.one_hot([0], SIZE, dtype=tf.float64)
    result = lanczos(lambda v: v * np.nan, old, 1, 1e-2, 20, margin=math.inf)
    assert np.isnan(result.eigenvalues).all()
    assert not result.converged.any()
