"""How well a rule announces events: ROC, recall at a rate of false alarms, notice, intervals.

A training counts once. In one with an event, the scores before the event count; an alarm at update
t gives the *notice* onset - t. In one without, all scores count, and an alarm is a false one.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tools.alarming.events import Event
from tools.alarming.plan import Training

# Events that begin no later are at the start: nothing can have been measured before them.
EARLIEST = 8
# Updates ahead that leave time to act. Only events that begin late enough can have it.
AHEAD = 20
_RATES = (0.01, 0.05)
_NUM_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Case:
    """A training, its updates and its event."""

    training: Training
    updates: pd.DataFrame
    event: Event | None


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of one training.

    Attributes:
        network: Its network.
        seed: Its seed.
        onset: Update at which its event begins; None without one.
        highest: The largest score up to each update before the event, the updates counted from 1.
    """

    network: str
    seed: int
    onset: int | None
    highest: np.ndarray

    @property
    def score(self) -> float:
        """The largest score."""
        return float(self.highest[-1])

    def notice(self, threshold: float) -> float:
        """Updates from the alarm to the event; NaN without an alarm."""
        first = int(np.searchsorted(self.highest, threshold, side="right"))
        if self.onset is None or first == len(self.highest):
            return math.nan
        return self.onset - (first + 1)


def scored(case: Case, scores: np.ndarray) -> Scored:
    """The scores of a training, an array with one for each update, cut at its event."""
    onset = None if case.event is None else case.event.onset
    before = scores if onset is None else scores[: onset - 1]
    training = case.training
    return Scored(training.network, training.seed, onset, np.maximum.accumulate(before))


def auroc(events: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a training with an event has the larger score; half of it for ties.

    >>> auroc([3.0, 1.0], [1.0, 0.0])
    0.875
    """
    if not len(events) or not len(others):
        return math.nan
    ordered = np.sort(others)
    below = np.searchsorted(ordered, events, side="left")
    upto = np.searchsorted(ordered, events, side="right")
    return float(np.mean(below + upto) / (2.0 * len(ordered)))


def threshold(others: Sequence[float], rate: float) -> float:
    """The smallest score that no more than a part of the trainings without events exceeds."""
    ordered = np.sort(others)[::-1]
    return float(ordered[min(math.floor(rate * len(ordered)), len(ordered) - 1)])


def judge(cases: Sequence[Scored]) -> dict[str, float]:
    """The numbers of a rule."""
    events = [case for case in cases if case.onset is not None]
    others = [case.score for case in cases if case.onset is None]
    found = {"auroc": auroc([case.score for case in events], others)}
    for rate in _RATES:
        found |= _at(threshold(others, rate) if others else math.nan, events, f"{rate:.0%}")
    return found


def _at(limit: float, events: Sequence[Scored], name: str) -> dict[str, float]:
    notices = np.array([case.notice(limit) for case in events])
    late = np.array([case.onset is not None and case.onset > AHEAD + EARLIEST for case in events])
    announced = np.isfinite(notices)
    in_time = np.nan_to_num(notices) >= AHEAD
    return {
        f"recall at {name}": _mean(announced),
        f"{AHEAD} ahead at {name}": _mean(in_time[late]),
        f"notice at {name}": float(np.median(notices[announced])) if announced.any() else math.nan,
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def intervals(
    cases: Sequence[Scored], num_resamples: int = _NUM_RESAMPLES
) -> dict[str, tuple[float, float]]:
    """95% intervals of the numbers, from resampled networks and, in each, resampled seeds."""
    generator = np.random.default_rng(0)
    groups: dict[str, dict[int, list[Scored]]] = {}
    for case in cases:
        groups.setdefault(case.network, {}).setdefault(case.seed, []).append(case)
    names = sorted(groups)
    drawn = []
    for _ in range(num_resamples):
        chosen: list[Scored] = []
        for place in generator.integers(len(names), size=len(names)):
            seeds = list(groups[names[place]].values())
            for seed in generator.integers(len(seeds), size=len(seeds)):
                chosen += seeds[seed]
        drawn.append(judge(chosen))
    return {name: _interval([each[name] for each in drawn]) for name in drawn[0]}


def _interval(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
