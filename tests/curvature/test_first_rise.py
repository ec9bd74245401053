"""The search for the first rise, on functions whose first rise is known."""

import math

import numpy as np
import pytest

from keras_aeos.curvature.first_rise import first_rise

GUESSES = (0.2, 0.7, 1.0, 1.5, 5.0)


def wall(eta):
    return -eta if eta <= 3.0 else math.inf


# The function, its first rise, and -f''(0) / f'(0).
FUNCTIONS = {
    "parabola": (lambda e: 5.0 + 2.0 * e * e - 6.0 * e, 3.0, 2.0 / 3.0),
    # e (e - 3) (e + 4)
    "cubic, steeper": (lambda e: e**3 + e**2 - 12.0 * e, 3.0, 1.0 / 6.0),
    # -e (e - 3) (e - 20), which is below zero again beyond 20
    "cubic, flatter": (lambda e: -(e**3) + 23.0 * e**2 - 60.0 * e, 3.0, 23.0 / 30.0),
    # e (e³ - 27)
    "quartic": (lambda e: e**4 - 27.0 * e, 3.0, None),
    "wall": (wall, 3.0, 0.0),
    "hinge": (lambda e: abs(e - 1.5), 3.0, None),
}


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_rise_is_found_to_three_percent(name, guess):
    function, root, curvature = FUNCTIONS[name]
    found = first_rise(function, 3.0 * guess)
    assert found.converged
    assert found.value == pytest.approx(root, rel=0.03)
    if name == "parabola":
        assert found.curvature == pytest.approx(curvature, rel=1e-9)


@pytest.mark.parametrize("name", ["parabola", "cubic, steeper", "cubic, flatter", "quartic"])
def test_smooth_functions_take_four_evaluations_in_the_median(name):
    function, root, _ = FUNCTIONS[name]
    guesses = root * np.exp(np.random.default_rng(0).normal(0.0, 0.7, 99))
    assert np.median([first_rise(function, g).num_evaluations for g in guesses]) <= 4


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize(
    ("function", "value"),
    [
        (lambda e: e + e * e, 0.0),
        (lambda e: math.log1p(e), 0.0),
        (lambda e: -e, math.inf),
        (lambda e: math.exp(-e), math.inf),
    ],
)
def test_functions_that_rise_at_once_or_never(function, value, guess):
    found = first_rise(function, guess)
    assert found.value == value
    assert found.converged
    assert found.num_evaluations <= 16


@pytest.mark.parametrize("start", [math.nan, math.inf])
def test_a_start_that_is_not_finite_has_no_rise(start):
    found = first_rise(lambda _: start, 1.0)
    assert math.isnan(found.value)
    assert (found.num_evaluations, found.converged) == (1, False)


def rounded_cubic(eta):
    """In float32, and not finite from 8 on."""
    return float(np.float32(1.0 + eta**3 + eta**2 - 12.0 * eta)) if eta < 8.0 else math.nan


@pytest.mark.parametrize(
    ("function", "guess"),
    [
        (lambda e: e * e - e, 0.1),
        # The search comes back to a point that it knows, where rounding hides the rise.
        (rounded_cubic, 18.007345756599662),
    ],
)
def test_every_evaluation_is_counted_and_none_is_made_twice(function, guess):
    calls: list[float] = []

    def counted(eta):
        assert eta not in calls
        calls.append(eta)
        return function(eta)

    assert first_rise(counted, guess).num_evaluations == len(calls) <= 16


def test_points_that_nearly_coincide_leave_the_curvature():
    """A loss that overflows far away; a parabola through close points would be of rounding."""
    for guess in np.geomspace(1.0, 500.0, 40):
        found = first_rise(lambda e: e * e - 6.0 * e if e < 50.0 else math.nan, guess)
        assert found.value == pytest.approx(6.0, rel=0.03)
        assert found.curvature == pytest.approx(1.0 / 3.0, rel=1e-3)
