"""Where a function of one variable first rises above its value at zero, from few evaluations."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

# Factors by which a step may leave the points known so far.
_GROWTH, _SHRINKAGE = 16.0, 32.0
# Relative change of the estimate at which the next one is good to 3%: a secant step nearly squares
# the error.
_SETTLED = 0.12
_MOST_EVALUATIONS = 16
# Points that all fall before the search stops asking them where to go on.
_PATIENCE = 5
_NARROW = 0.02
# Beyond this multiple of the first step the function is said not to rise.
_FAR = 1e6


@dataclasses.dataclass(frozen=True)
class FirstRise:
    """The smallest ``η > 0`` at which a function f exceeds f(0), and what the search saw.

    Attributes:
        value: η; 0 if f rises from the start, infinite if it does not rise as far as was looked,
            NaN if f(0) is not finite.
        curvature: ``-f''(0) / f'(0)``, of the parabola through the points nearest to 0; NaN if f
            does not fall at 0.
        num_evaluations: Evaluations of f.
        converged: Whether the last two estimates agree as far as 3% takes.
    """

    value: float
    curvature: float
    num_evaluations: int
    converged: bool


def first_rise(function: Callable[[float], float], guess: float) -> FirstRise:
    """Find the smallest ``η > 0`` with ``f(η) = f(0)`` beyond which f exceeds f(0), to about 3%.

    The mean slope ``h(η) = (f(η) - f(0)) / η`` has its root there. It is linear in η where f is a
    parabola, so the line through two values gives the root of the parabola through three points,
    and a secant step corrects it. Values that are not finite count as risen. A rise and fall
    between two evaluations is not seen.

    Args:
        function: f. It may return any float.
        guess: Positive float. Where to look first.

    Returns:
        A `FirstRise`.

    Example:
        >>> round(first_rise(lambda x: x * x - 6.0 * x, 1.0).value, 6)
        6.0
    """
    at_zero = function(0.0)
    if not math.isfinite(at_zero):
        return FirstRise(math.nan, math.nan, 1, False)
    points: dict[float, float] = {}
    eta, previous, converged = guess, math.nan, False
    while True:
        value = function(eta)
        points[eta] = (value - at_zero) / eta if math.isfinite(value) else math.inf
        etas = sorted(points)
        if _rises_at_once(points, etas) or eta < guess / _FAR:
            eta, converged = 0.0, True
            break
        if eta > guess * _FAR:
            eta, converged = math.inf, True
            break
        estimate, certain = _estimate(points, etas)
        known = math.isfinite(max(points.values()))
        settled = known and abs(estimate - previous) <= _SETTLED * abs(estimate)
        converged = _width(points, etas) <= _NARROW or (certain and (settled or estimate in points))
        previous, eta = estimate, estimate
        if converged or estimate in points or len(points) + 1 >= _MOST_EVALUATIONS:
            break
    return FirstRise(eta, _curvature(points), len(points) + 1, converged)


def _bracket(points: dict[float, float], etas: list[float]) -> tuple[float | None, float | None]:
    """The points on either side of the first change of sign, where there are any."""
    upper = next((eta for eta in etas if points[eta] > 0.0), None)
    falling = [eta for eta in etas if points[eta] <= 0.0 and (upper is None or eta < upper)]
    return (falling[-1] if falling else None), upper


def _width(points: dict[float, float], etas: list[float]) -> float:
    lower, upper = _bracket(points, etas)
    return math.inf if lower is None or upper is None else (upper - lower) / upper


def _estimate(points: dict[float, float], etas: list[float]) -> tuple[float, bool]:
    """Where the mean slope is zero, and whether that follows from the points without a limit."""
    lower, upper = _bracket(points, etas)
    finite = [eta for eta in etas if math.isfinite(points[eta])]
    if upper is None:
        low, high = etas[-1], _GROWTH * etas[-1]
        if len(finite) < 2:
            return 2.0 * etas[-1], False
        if len(finite) >= _PATIENCE:
            return _GROWTH * etas[-1], False
        near = finite[-2:]
    elif lower is None:
        low, high = upper / _SHRINKAGE, upper
        if len(finite) < 2:
            return upper / (2.0 if finite else _GROWTH), False
        near = finite[:2]
    else:
        low, high = lower, upper
        if math.isinf(points[upper]):
            return math.sqrt(low * high), False
        near = [lower, upper]
    root = _linear(points, *near)
    others = [eta for eta in finite if all(_apart(eta, other) for other in near)]
    if others and _apart(*near):
        third = min(others, key=lambda eta: abs(math.log(eta / max(near))))
        root = _quadratic(points, [*near, third], root, low, high)
    if not math.isfinite(root) or root <= 0.0:
        return (high if upper is None else low), False
    if not low <= root <= high:
        return min(max(root, low), high), False
    return root, True


def _apart(first: float, second: float) -> bool:
    """Whether two points are far enough apart for a parabola through both."""
    return abs(first - second) > _NARROW * max(first, second)


def _linear(points: dict[float, float], first: float, second: float) -> float:
    """Root of the line through two points; infinite or negative if it leads away from zero."""
    slope = (points[second] - points[first]) / (second - first)
    if slope <= 0.0:
        return math.inf
    return second - points[second] / slope


def _quadratic(
    points: dict[float, float], three: list[float], otherwise: float, low: float, high: float
) -> float:
    """Root of the parabola through three points that is between two limits, where it rises."""
    coefficients = np.polyfit(three, [points[eta] for eta in three], 2)
    roots = [
        float(root.real)
        for root in np.roots(coefficients)
        if abs(root.imag) < 1e-12 * abs(root) and low <= root.real <= high
        if np.polyval(np.polyder(coefficients), root.real) > 0.0
    ]
    return min(roots) if roots else otherwise


def _rises_at_once(points: dict[float, float], etas: list[float]) -> bool:
    """Whether the line through the two smallest of points that all rise begins above zero."""
    if len(etas) < 3 or min(points.values()) <= 0.0 or math.isinf(points[etas[1]]):
        return False
    first, second = etas[:2]
    slope = (points[second] - points[first]) / (second - first)
    return points[first] - slope * first >= 0.0


def _curvature(points: dict[float, float]) -> float:
    """``-f''(0) / f'(0)`` from ``h(η) = f' + f'' η / 2 + ...`` through at most three points."""
    etas: list[float] = []
    for eta in sorted(points):
        if math.isfinite(points[eta]) and (not etas or _apart(etas[-1], eta)):
            etas.append(eta)
    etas = etas[:3]
    if len(etas) < 2:
        return math.nan
    *_, half, slope = np.polyfit(etas, [points[eta] for eta in etas], len(etas) - 1)
    return float(-2.0 * half / slope) if slope < 0.0 else math.nan
