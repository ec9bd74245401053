"""Recurrences, growth factors and thresholds against closed forms, roots and simulated updates."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_aeos.stability import (
    Momentum,
    Recurrence,
    ScheduleFree,
    first_unstable_eigenvalue,
)

# kind of momentum: (momentum of β, λ*·η of β), Table 1
TABLE_1 = {
    "none": (lambda beta: Momentum.none(), lambda b: 2.0),
    "heavy_ball": (lambda beta: Momentum.heavy_ball(beta), lambda b: 2 + 2 * b),
    "ema_heavy_ball": (
        lambda beta: Momentum.heavy_ball(beta, ema=True),
        lambda b: (2 + 2 * b) / (1 - b),
    ),
    "nesterov": (
        lambda beta: Momentum.nesterov(beta),
        lambda b: (2 + 2 * b) / (1 + 2 * b),
    ),
    "ema_nesterov": (
        lambda beta: Momentum.nesterov(beta, ema=True),
        lambda b: (2 + 2 * b) / ((1 - b) * (1 + 2 * b)),
    ),
}

kinds = st.sampled_from(sorted(TABLE_1))
betas = st.floats(0.0, 0.99)
rates = st.floats(1e-6, 10.0)
# ηw, the part of a parameter that one step takes away.
decays = st.floats(0.0, 0.5)
averages = st.builds(ScheduleFree, st.floats(0.05, 1.0), st.floats(1e-6, 1.0))
# A buffer and the gradient in any proportion, as in Keras's Nadam.
momenta = st.one_of(
    st.builds(lambda kind, beta: TABLE_1[kind][0](beta), kinds, betas),
    st.builds(Momentum, betas, st.floats(0.01, 1.0), st.floats(0.1, 2.0), st.floats(0.0, 2.0)),
)


def descend(momentum, rate, eigenvalue, weight_decay=0.0, num_steps=100):
    """Run the optimizer on ``λx²/2`` from x = 1, as its update is written down."""
    x, m, path = 1.0, 0.0, [1.0]
    for _ in range(num_steps):
        gradient = eigenvalue * x
        m = momentum.beta * m + momentum.gradient_weight * gradient
        step = momentum.buffer_share * m + momentum.gradient_share * gradient
        x = (1 - rate * weight_decay) * x - rate * step
        path.append(x)
    return np.array(path)


def descend_schedule_free(average, rate, eigenvalue, weight_decay=0.0, num_steps=100):
    """The same for schedule-free averaging with a fixed weight of the average."""
    y = z = 1.0
    path = [y]
    for _ in range(num_steps):
        gradient = eigenvalue * y
        y *= 1 - rate * weight_decay
        x = (y - (1 - average.beta) * z) / average.beta
        z -= rate * gradient
        x += average.average_weight * (z - x)
        y = (1 - average.beta) * z + average.beta * x
        path.append(y)
    return np.array(path)


def largest_root(recurrence, eigenvalue):
    return np.abs(np.roots(recurrence.characteristic_polynomial(eigenvalue))).max()


# ------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("kind", TABLE_1)
@given(beta=betas, rate=rates)
def test_threshold_is_that_of_table_1(kind, beta, rate):
    make, product = TABLE_1[kind]
    expected = product(0.0 if kind == "none" else beta) / rate
    assert make(beta).recurrence(rate).stability_threshold() == pytest.approx(expected, rel=1e-12)


@given(beta=betas, rate=rates, decay=decays)
def test_threshold_of_adamw_is_that_of_the_decayed_recurrence(beta, rate, decay):
    threshold = (
        Momentum.heavy_ball(beta, ema=True).recurrence(rate, decay / rate).stability_threshold()
    )
    expected = (1 + beta) * (2 - decay) / ((1 - beta) * rate)
    assert threshold == pytest.approx(expected, rel=1e-10)


@given(kind=st.one_of(momenta, averages), rate=rates, decay=decays)
@example(kind=Momentum.heavy_ball(0.9, ema=True), rate=1.0, decay=0.0)
def test_closed_form_and_root_finder_agree(kind, rate, decay):
    recurrence = kind.recurrence(rate, decay / rate)
    closed = recurrence.stability_threshold()
    found = first_unstable_eigenvalue(recurrence.coefficients, upper=3.0 * closed)
    assert found == pytest.approx(closed, rel=1e-10)


@given(kind=momenta, rate=rates, decay=decays, fraction=st.floats(0.01, 0.99))
def test_threshold_separates_stable_from_unstable_roots(kind, rate, decay, fraction):
    """All below it are stable, the first above it is not; roots by `numpy.roots`."""
    recurrence = kind.recurrence(rate, decay / rate)
    threshold = recurrence.stability_threshold()
    # On a nearly double root, `numpy.roots` is good to the root of the precision.
    assert largest_root(recurrence, fraction * threshold) <= 1.0 + 1e-7
    assert largest_root(recurrence, (1 + 1e-6) * threshold) > 1.0


def test_root_finder_takes_any_recurrence():
    """A user's own coefficients: Newton's method damped by η = 1/2 on a quartic's slope."""
    assert first_unstable_eigenvalue(lambda x: (1 - x**3 / 2, 0.0), 10.0) == pytest.approx(
        4 ** (1 / 3), rel=1e-10
    )
    recurrence = Recurrence(a=(0.5, 0.25), b=(-0.25, 0.0))
    # A root at 1: 1 = A + B.
    assert recurrence.stability_threshold() == 3.0
    assert first_unstable_eigenvalue(recurrence.coefficients, 10.0) == pytest.approx(3.0, rel=1e-10)
    # A pair of complex roots of magnitude √-B, whatever A.
    recurrence = Recurrence(a=(0.1, 0.0), b=(-0.5, -0.25))
    assert recurrence.stability_threshold() == 2.0
    assert first_unstable_eigenvalue(recurrence.coefficients, 10.0) == pytest.approx(2.0, rel=1e-10)


@pytest.mark.parametrize(
    ("recurrence", "expected"),
    [
        (Momentum.none().recurrence(0.0), math.inf),
        (Momentum.heavy_ball(0.9).recurrence(0.0), math.inf),
        (Momentum.none().recurrence(1.0, weight_decay=3.0), 0.0),
        (Recurrence(a=(0.5, 0.0), b=(0.0, 0.0)), math.inf),
        (Recurrence(a=(0.0, -1.0), b=(-1.5, 0.0)), 0.0),
    ],
)
def test_limits(recurrence, expected):
    assert recurrence.stability_threshold() == expected


def test_root_finder_says_when_everything_is_stable():
    assert first_unstable_eigenvalue(lambda x: (0.5, 0.0), upper=100.0) == math.inf


# -------------------------------------------------------------------------- recurrence and growth


@given(kind=momenta, rate=rates, decay=decays, fraction=st.floats(0.05, 1.5))
def test_recurrence_reproduces_the_update(kind, rate, decay, fraction):
    recurrence = kind.recurrence(rate, decay / rate)
    eigenvalue = fraction * recurrence.stability_threshold()
    path = descend(kind, rate, eigenvalue, decay / rate, num_steps=20)
    a, b = recurrence.coefficients(eigenvalue)
    size = np.abs(path).max() * (1 + abs(a) + abs(b))
    np.testing.assert_allclose(path[2:], a * path[1:-1] + b * path[:-2], atol=1e-10 * size)


@given(kind=averages, rate=rates, decay=decays, fraction=st.floats(0.05, 1.5))
def test_recurrence_of_schedule_free_averaging_reproduces_the_update(kind, rate, decay, fraction):
    recurrence = kind.recurrence(rate, decay / rate)
    eigenvalue = fraction * recurrence.stability_threshold()
    path = descend_schedule_free(kind, rate, eigenvalue, decay / rate, num_steps=20)
    a, b = recurrence.coefficients(eigenvalue)
    # Recovering x from y divides by β, which costs digits.
    size = np.abs(path).max() * (1 + abs(a) + abs(b)) / kind.beta
    np.testing.assert_allclose(path[2:], a * path[1:-1] + b * path[:-2], atol=1e-9 * size)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", TABLE_1)
def test_quadratic_converges_below_the_threshold_and_diverges_above(kind, decay):
    momentum, rate = TABLE_1[kind][0](0.9), 0.03
    threshold = momentum.recurrence(rate, decay / rate).stability_threshold()
    below = descend(momentum, rate, 0.98 * threshold, decay / rate, 2000)
    above = descend(momentum, rate, 1.02 * threshold, decay / rate, 2000)
    assert np.abs(below[-10:]).max() < 1e-3
    assert np.abs(above[-10:]).max() > 1e3


@pytest.mark.parametrize("fraction", [0.2, 0.9, 1.1])
@pytest.mark.parametrize("kind", TABLE_1)
def test_growth_factor_is_the_rate_of_the_iterates(kind, fraction):
    momentum = TABLE_1[kind][0](0.9)
    recurrence = momentum.recurrence(0.1)
    eigenvalue = fraction * recurrence.stability_threshold()
    path = np.abs(descend(momentum, 0.1, eigenvalue, num_steps=400))
    # The largest of a window as long as an oscillation; 1e-300 where it has died out.
    first, last = (path[i : i + 50].max() + 1e-300 for i in (100, 300))
    # The phase within a window moves its maximum by a factor below 2.
    assert recurrence.growth_factor(eigenvalue) == pytest.approx(
        (last / first) ** (1 / 200), rel=2 ** (1 / 200) - 1
    )


@given(kind=momenta, rate=rates, fraction=st.floats(0.0, 2.0))
def test_growth_factor_is_the_largest_root_of_the_polynomial(kind, rate, fraction):
    recurrence = kind.recurrence(rate)
    eigenvalue = fraction * recurrence.stability_threshold()
    # Two methods agree on a double root to the root of the precision.
    assert recurrence.growth_factor(eigenvalue) == pytest.approx(
        largest_root(recurrence, eigenvalue), abs=1e-7
    )


def test_arrays_of_eigenvalues_are_taken_whole():
    recurrence = Momentum.nesterov(0.9).recurrence(0.02)
    eigenvalues = np.linspace(0.0, 70.0, 6).reshape(2, 3)
    factors = recurrence.growth_factor(eigenvalues)
    assert factors.shape == (2, 3)
    assert recurrence.characteristic_polynomial(eigenvalues).shape == (2, 3, 3)
    assert factors[1, 2] == recurrence.growth_factor(70.0)


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Momentum(-0.1), "Received: beta=-0.1"),
        (lambda: Momentum.heavy_ball(1.0), "Received: beta=1.0"),
        (lambda: Momentum.none().recurrence(-1.0), "learning_rate=-1.0"),
        (lambda: Momentum.none().recurrence(float("nan")), "learning_rate=nan"),
        (lambda: ScheduleFree(0.9, 0.1).recurrence(-1.0), "learning_rate=-1.0"),
        (lambda: first_unstable_eigenvalue(lambda x: (0.5, 0.0), math.inf), "upper=inf"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_momentum_can_be_compared_and_hashed():
    assert Momentum.heavy_ball(0.9, ema=True) == Momentum.heavy_ball(0.9, ema=True)
    assert len({Momentum.nesterov(0.9), Momentum.nesterov(0.9), Momentum.none()}) == 2
    assert dataclasses.replace(Momentum.none(), beta=0.5) == Momentum.heavy_ball(0.5)
