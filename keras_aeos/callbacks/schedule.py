"""After which updates a monitor measures."""

import bisect
import collections
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from keras_aeos import constraints

# The share of the wall time that measuring may take by default.
MAX_OVERHEAD = 0.05
# Updates before the first measurement. As many batches are gathered by then, and a product with
# their Hessian costs about two updates for each.
_FIRST = 8
# Products of each solve in a row, for each eigenvalue. The spectrum of an untrained network can be
# so dense that a solve takes many more; here it goes on from where it was in the next row.
_HVPS_PER_EIGENVALUE = 8
# The first measurement includes tracing. It is paid off at this part of the allowed overhead.
_SETUP_PART = 0.4
# Part of the first measurement that later ones are expected to take, until there is one.
_RECURRING_PART = 0.5
# Later measurements that the next one is expected to be like. Every so many, one may be dearer.
_NUM_ALIKE = 6
# A ratio from here on is near the edge; a change by this part from row to row is fast.
_NEAR, _FAST = 0.7, 0.1
# Waiting times, in units of that which keeps the overhead at the limit: where something happens
# time saved before is spent, where nothing happens it is saved.
_EAGER, _LAZY = 0.5, 4.0


def make(
    update_freq: int | str | Iterable[int], max_overhead: float | None = None
) -> "Regular | Given | Automatic":
    """The schedule of a monitor's arguments.

    Args:
        update_freq: Positive integer, "auto" or collection of positive integers.
        max_overhead: Share of the wall time for "auto"; None for 0.05.

    Returns:
        An object with the methods ``begin(step)``, called when `fit` begins, and
        ``after(step, seconds, ratio)``, called after a measurement. Each returns the number of
        updates after which to measure next, above `step`.

    Raises:
        ValueError: If an argument is out of range, or `max_overhead` has no effect.
    """
    if isinstance(update_freq, Iterable) and not isinstance(update_freq, str):
        update_freq = list(update_freq)
    constraints.check(update_freq=update_freq, max_overhead=max_overhead)
    if isinstance(update_freq, str):
        return Automatic(MAX_OVERHEAD if max_overhead is None else max_overhead)
    if max_overhead is not None:
        raise ValueError(
            "`max_overhead` decides how often to measure with update_freq='auto', and has no "
            f"effect otherwise. Leave one of them out. Received: max_overhead={max_overhead} and "
            f"update_freq={update_freq!r}"
        )
    return Given(sorted(update_freq)) if isinstance(update_freq, list) else Regular(update_freq)


def max_hvps(num_eigenvalues: int) -> int:
    """Product limit of a solve for so many eigenvalues, with ``update_freq="auto"``.

    A solve starts from one vector, a sum of the old ones. It takes as many products as eigenvalues
    to tell them apart again, before it gains on the last one.
    """
    return _HVPS_PER_EIGENVALUE * num_eigenvalues


class Regular:
    """Every multiple of a number of updates."""

    def __init__(self, update_freq: int) -> None:
        self._update_freq = update_freq

    def begin(self, step: int) -> int:
        """Next multiple above `step`."""
        return (step // self._update_freq + 1) * self._update_freq

    def after(self, step: int, seconds: float, ratio: float) -> int:
        """Next multiple above `step`."""
        return self.begin(step)


class Given:
    """Given numbers of updates, ascending."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = steps

    def begin(self, step: int) -> float:
        """Next given number above `step`; inf if there is none."""
        index = bisect.bisect_right(self._steps, step)
        return self._steps[index] if index < len(self._steps) else math.inf

    def after(self, step: int, seconds: float, ratio: float) -> float:
        """Next given number above `step`; inf if there is none."""
        return self.begin(step)


class Automatic:
    """As often as a share of the wall time allows, and as there is something to see.

    With c the seconds of the dearest of the last six measurements, S those spent so far and f the
    allowed share, the next measurement is due at the wall time T with ``S + c ≤ f T``. With m the
    mean of the last six, it is not due before m/2f have passed, and where the edge is far and the
    ratio rests not before 4m/f. The time of the first measurement, much of which is tracing, enters
    S bit by bit, at two fifths of the allowed share, so that a short run isn't left without rows.

    Args:
        max_overhead: The allowed share f of the wall time.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, max_overhead: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._share = max_overhead
        self._clock = clock
        self._setup: float | None = None
        self._spent = 0.0
        self._costs: collections.deque[float] = collections.deque(maxlen=_NUM_ALIKE)
        self._elapsed = 0.0
        self._ratio = math.nan
        self._last_step = 0
        self._due: int | None = None
        self._seconds_per_update = 0.0

    def begin(self, step: int) -> int:
        """A few updates after the first `step`; in a later `fit` what was due before."""
        if self._due is None or step < self._last_step:
            self._due = step + _FIRST
        else:  # what the last `fit` trained after its last measurement
            self._elapsed += (step - self._last_step) * self._seconds_per_update
        self._resumed = self._clock()
        self._last_step = step
        return max(self._due, step + 1)

    def after(self, step: int, seconds: float, ratio: float) -> int:
        """The next update at which a measurement fits into the allowed share."""
        now = self._clock()
        trained = max(now - self._resumed - seconds, 1e-9)
        self._elapsed += now - self._resumed
        if step > self._last_step:
            self._seconds_per_update = trained / (step - self._last_step)
        self._resumed, self._last_step = now, step

        if self._setup is None:
            self._setup = seconds
        else:
            self._spent += seconds
            self._costs.append(seconds)
        costs = self._costs or [_RECURRING_PART * self._setup]
        spent = self._spent + max(costs)
        due = min((spent + self._setup) / self._share, spent / (self._share * (1.0 - _SETUP_PART)))
        patience = _EAGER if self._happening(ratio) else _LAZY
        wait = max(due - self._elapsed, patience * statistics.fmean(costs) / self._share)
        self._ratio = ratio
        if self._seconds_per_update:
            self._due = step + max(1, math.ceil(wait / self._seconds_per_update))
        else:  # measured before the first update
            self._due = step + _FIRST
        return self._due

    def _happening(self, ratio: float) -> bool:
        if not math.isfinite(ratio) or not math.isfinite(self._ratio):
            return True
        moved = abs(ratio - self._ratio)
        return ratio >= _NEAR or moved >= _FAST * max(abs(ratio), abs(self._ratio))
