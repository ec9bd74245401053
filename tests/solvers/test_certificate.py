"""What is claimed of an eigenvalue beside its value, on operators whose spectrum is known."""

import itertools
import math

import numpy as np
import pytest

from keras_aeos.solvers.certificate import certificate, describe, log_growth


class Lanczos:
    """Thick-restart Lanczos for a diagonal operator, in the plainest way.

    Attributes:
        basis: Orthonormal vectors, as columns.
        following: The next basis vector q.
        betas: Norms of the rests, one for each product.
    """

    def __init__(self, diagonal, start):
        self._diagonal = diagonal
        self.basis = np.empty((len(diagonal), 0))
        self.following = start / np.linalg.norm(start)
        self.betas: list[float] = []
        self._begin = 0

    def expand(self, num_steps):
        """That many products more; returns the `Basis`."""
        for _ in range(num_steps):
            self.basis = np.c_[self.basis, self.following]
            rest = self._diagonal * self.following
            for _ in range(3):
                rest = rest - self.basis @ (self.basis.T @ rest)
            self.betas.append(float(np.linalg.norm(rest)))
            self.following = rest / self.betas[-1]
        values, vectors = np.linalg.eigh(self.basis.T * self._diagonal @ self.basis)
        self._vectors = vectors[:, ::-1]
        return describe(values[::-1], self._vectors, self.betas[-1], self._begin)

    def restart(self, num_kept):
        """Replace the basis by its largest Ritz vectors."""
        self.basis = self.basis @ self._vectors[:, :num_kept]
        self._begin = num_kept


def spectrum(size=100, top=3.0, seed=0):
    """A bulk in [-1, 1] below one eigenvalue."""
    return np.append(np.random.default_rng(seed).uniform(-1.0, 1.0, size - 1), top)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 9])
def test_growth_is_that_of_the_characteristic_polynomial(num_steps):
    """Π|λ - θ| / Πβ; the sum over Ritz values cancels it to 1e-16 of its largest term."""
    diagonal = spectrum()
    process = Lanczos(diagonal, np.random.default_rng(1).standard_normal(100))
    state = process.expand(num_steps)
    values = state.values[0] + np.array([0.01, 0.3, 2.0])
    expected = np.log(np.abs(values[:, None] - state.values)).sum(1) - np.log(process.betas).sum()
    np.testing.assert_allclose(log_growth(values, state), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("index", [-1, 0, 17])
def test_growth_is_that_of_the_component_through_restarts(index):
    """The eigenvectors of a diagonal operator are unit vectors: components can be read off."""
    diagonal = spectrum(top=1.3)
    start = np.random.default_rng(2).standard_normal(100)
    start[-1] = 1e-7  # else it would be found, and its component along q lost, in two cycles
    process = Lanczos(diagonal, start)
    first = process.following[index]
    total = 0.0
    for cycle in range(3):
        state = process.expand(10 if cycle == 0 else 6)
        total += float(log_growth(np.asarray(diagonal[index]), state))
        assert total == pytest.approx(math.log(abs(process.following[index] / first)), abs=1e-6)
        process.restart(4)


def certified(diagonal, generator, num_old=0):
    """A `Certificate` and the `Basis` of a run with one restart; from old eigenvectors, if any."""
    random = generator.standard_normal(len(diagonal))
    random /= np.linalg.norm(random)
    start, fraction = random, 1.0
    if num_old:
        old = np.zeros(len(diagonal))
        old[np.argsort(diagonal)[::-1][1 : num_old + 1]] = 1.0 / math.sqrt(num_old)
        start = random + old
        fraction = 1.0 / float(np.linalg.norm(start))
    process = Lanczos(diagonal, start)
    proof = certificate(len(diagonal), fraction, 8).restart(process.expand(8))
    process.restart(3)
    return proof, process.expand(int(generator.integers(1, 8)))


@pytest.mark.parametrize("num_old", [0, 2])
def test_upper_bound_is_above_the_largest_eigenvalue(num_old):
    """In 200 cases; the claim is 99 %, and five of 200 fail with a probability of 5 % then."""
    num_above = num_useful = 0
    for case in range(200):
        generator = np.random.default_rng(case)
        top = generator.uniform(1.0, 2.0)
        diagonal = spectrum(int(generator.integers(30, 200)), top, case)
        proof, state = certified(diagonal, generator, num_old)
        bound = float(proof.upper_bound(state))
        assert math.isfinite(bound)
        assert bound > state.values[0]
        num_above += bound >= diagonal.max()
        num_useful += bound <= 3.0 * diagonal.max()
    assert num_above >= 196
    assert num_useful >= 196  # a bound that is far off is above, too


def test_bound_fails_where_the_random_part_is_unlucky():
    """The 1 % of starts that hold less of the eigenvector than the certificate supposes."""
    size = 100
    diagonal = spectrum(size, 1.5)
    supposed = 0.01 * math.sqrt(math.pi / (2.0 * size))
    for factor, expected in ((1.1, True), (1e-3, False)):
        start = np.random.default_rng(3).standard_normal(size)
        start[-1] = 0.0
        start /= np.linalg.norm(start)
        start[-1] = factor * supposed
        state = Lanczos(diagonal, start).expand(8)
        assert (certificate(size, 1.0, 8).upper_bound(state) >= 1.5) == expected


def test_exclusion_is_monotone_and_the_bound_is_its_border():
    for case in range(20):
        proof, state = certified(spectrum(seed=case, top=1.2), np.random.default_rng(case))
        top = max(proof.values.numpy().max(), state.values.max())
        excluded = proof.excludes(top + np.geomspace(1e-6, 1e3, 200), state).numpy().tolist()
        assert excluded == sorted(excluded)
        assert excluded[-1]
        distance = float(proof.upper_bound(state)) - top
        # The distance is found to a thousandth; the bound may not be a number that is too large.
        factors = np.array([1.0 + 1e-9, 0.998])
        assert proof.excludes(top + factors * distance, state).numpy().tolist() == [True, False]


def test_smaller_random_part_or_more_parameters_need_more_growth():
    diagonal = spectrum(top=1.2)
    state = Lanczos(diagonal, np.random.default_rng(0).standard_normal(100)).expand(8)
    bounds = [
        float(certificate(size, fraction, 8).upper_bound(state))
        for size, fraction in ((100, 1.0), (100, 0.5), (100, 0.1), (10_000, 0.1))
    ]
    assert all(first < second for first, second in itertools.pairwise(bounds))
