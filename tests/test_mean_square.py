"""Thresholds in mini-batches against the second moments of updates with a random curvature."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_aeos.stability import Momentum, Recurrence, ScheduleFree

# The threshold of the noise alone, times η: E h² / E h where the mean hardly counts.
NOISE_LIMITS = {
    "none": (lambda beta: Momentum.none(), lambda b: 2.0),
    "heavy_ball": (lambda beta: Momentum.heavy_ball(beta), lambda b: 2 * (1 - b)),
    "ema_heavy_ball": (lambda beta: Momentum.heavy_ball(beta, ema=True), lambda b: 2.0),
    "nesterov": (lambda beta: Momentum.nesterov(beta), lambda b: 2 * (1 - b)),
    "ema_nesterov": (lambda beta: Momentum.nesterov(beta, ema=True), lambda b: 2.0),
}
HEAVY_BALLS = ["none", "heavy_ball", "ema_heavy_ball"]

betas = st.floats(0.0, 0.99)
rates = st.floats(1e-6, 10.0)
decays = st.floats(0.0, 0.5)
noises = st.floats(-3.0, 3.0).map(lambda exponent: 10.0**exponent)
momenta = st.builds(Momentum, betas, st.floats(0.01, 1.0), st.floats(0.1, 2.0), st.floats(0.0, 2.0))
averages = st.builds(ScheduleFree, st.floats(0.05, 0.99), st.floats(0.01, 1.0))


def update(kind, state, curvature, rate, decay):
    """One update of ``(x, m)``, or of ``(y, z)`` if averaged, on ``hx²/2``, as it is written."""
    gradient = curvature * state[0]
    if isinstance(kind, ScheduleFree):
        y, z = state
        y = (1 - decay) * y
        x = (y - (1 - kind.beta) * z) / kind.beta
        z = z - rate * gradient
        x = x + kind.average_weight * (z - x)
        return np.array([(1 - kind.beta) * z + kind.beta * x, z])
    x, m = state
    m = kind.beta * m + kind.gradient_weight * gradient
    step = kind.buffer_share * m + kind.gradient_share * gradient
    return np.array([(1 - decay) * x - rate * step, m])


def second_moments(kind, mean, noise, rate, decay):
    """The map of ``E s sᵀ`` of the state s, flat, if h is λ (1 ± σ) with equal odds."""
    moments = []
    for sign in (-1.0, 1.0):
        h = mean * (1.0 + sign * np.sqrt(noise))
        one = np.stack([update(kind, s, h, rate, decay) for s in np.eye(2)], axis=1)
        moments.append(np.kron(one, one))
    return np.mean(moments, axis=0)


@given(kind=st.one_of(momenta, averages), rate=rates, decay=decays, noise=noises)
def test_second_moments_shrink_below_the_threshold_and_grow_above(kind, rate, decay, noise):
    threshold = kind.recurrence(rate, decay / rate).mean_square_threshold(noise)

    def growth(eigenvalue):
        # In units of the threshold: the steps of x and m are then of one size.
        moments = second_moments(kind, eigenvalue, noise, rate * threshold, decay)
        return np.abs(np.linalg.eigvals(moments)).max()

    for fraction in (0.1, 0.5, 0.9, 0.999):
        assert growth(fraction) < 1.0 + 1e-9
    assert growth(1.001) > 1.0


@pytest.mark.parametrize("kind", NOISE_LIMITS)
def test_second_moments_are_those_of_all_paths(kind):
    """The mean of ``x²`` over each of the 2¹⁰ sequences of curvatures."""
    momentum, decay, noise, num_steps = NOISE_LIMITS[kind][0](0.8), 0.01, 0.5, 10
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=num_steps)))
    state = np.stack([np.ones(len(signs)), np.zeros(len(signs))])
    for h in (1.0 + np.sqrt(noise) * signs).T:
        state = update(momentum, state, h, 0.3, decay)
    moments = np.linalg.matrix_power(second_moments(momentum, 1.0, noise, 0.3, decay), num_steps)
    assert np.mean(state[0] ** 2) == pytest.approx(moments[0, 0], rel=1e-10)


@pytest.mark.parametrize("kind", HEAVY_BALLS)
@given(beta=betas, rate=rates, noise=noises)
def test_thresholds_of_heavy_balls_are_harmonic_sums(kind, beta, rate, noise):
    make, limit = NOISE_LIMITS[kind]
    recurrence = make(beta).recurrence(rate)
    expected = 1.0 / (1.0 / recurrence.stability_threshold() + noise * rate / limit(beta))
    assert recurrence.mean_square_threshold(noise) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("beta", [0.5, 0.9])
@pytest.mark.parametrize("kind", NOISE_LIMITS)
def test_noise_alone_has_a_threshold_of_its_own(kind, beta):
    make, limit = NOISE_LIMITS[kind]
    threshold = make(beta).recurrence(0.1).mean_square_threshold(1e8)
    assert 1e8 * threshold == pytest.approx(limit(beta) / 0.1, rel=1e-5)


@given(kind=st.one_of(momenta, averages), rate=rates, decay=decays)
def test_without_noise_it_is_the_stability_threshold(kind, rate, decay):
    recurrence = kind.recurrence(rate, decay / rate)
    assert recurrence.mean_square_threshold(0.0) == recurrence.stability_threshold()
    near = recurrence.mean_square_threshold(1e-12)
    assert near == pytest.approx(recurrence.stability_threshold(), rel=1e-6)


@pytest.mark.parametrize("noise", [-1.0, float("nan")])
def test_noise_is_a_variance(noise):
    with pytest.raises(ValueError, match=r"`noise`.*Received: noise="):
        Recurrence((1.0, -1.0), (0.0, 0.0)).mean_square_threshold(noise)
