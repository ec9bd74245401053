"""What counts as a failure of a training, defined once, from its losses alone.

The losses are those of the same training examples at every update, so that a batch of hard
examples is no event.

The *level* at update t is the mean of the losses of the updates t to t + 7. A training has an event
from the first update on at which one of these holds:

- the loss is not finite;
- the level is more than a tenth above the first loss: *above the start*;
- the level is more than twice the smallest level before, of updates that end before t, and the
  rise is more than a twentieth of the first loss: a *spike*.

The worst of these from then on is the event's kind. An event is *recovered* from if the level at
the end is below the first loss and below twice the smallest level before the event.
"""

import dataclasses

import numpy as np

WINDOW = 8
_ABOVE_START, _SPIKE, _LEAST_RISE = 1.1, 2.0, 0.05
NOT_FINITE, ABOVE_START, SPIKE = "not finite", "above the start", "spike"


@dataclasses.dataclass(frozen=True)
class Event:
    """The first event of a training.

    Attributes:
        onset: The update at which it begins, counted from 1.
        kind: `NOT_FINITE`, `ABOVE_START` or `SPIKE`.
        recovered: Whether the training recovers from it.
    """

    onset: int
    kind: str
    recovered: bool


def find(losses: np.ndarray) -> Event | None:
    """The first event of a training; None if it has none.

    Args:
        losses: The loss of each update, before it, as an array (n,). After one that is not finite,
            nothing counts.
    """
    finite = np.isfinite(losses)
    ends = len(losses) if finite.all() else int(np.argmin(finite))
    if not ends:
        return Event(1, NOT_FINITE, False)
    known = losses[:ends].astype(np.float64)
    failed = ends < len(losses)
    levels = _levels(known, failed)
    lowest = np.concatenate([np.full(WINDOW, np.inf), np.minimum.accumulate(levels)])[: len(levels)]
    above = levels > _ABOVE_START * known[0]
    spike = (levels > _SPIKE * lowest) & (levels - lowest > _LEAST_RISE * known[0])
    found = np.flatnonzero(above | spike)
    if not len(found):
        return Event(ends + 1, NOT_FINITE, False) if failed else None
    first = int(found[0])
    if failed:
        return Event(first + 1, NOT_FINITE, False)
    kind = ABOVE_START if above[first:].any() else SPIKE
    recovered = levels[-1] < min(known[0], _SPIKE * lowest[first])
    return Event(first + 1, kind, bool(recovered))


def _levels(losses: np.ndarray, failed: bool) -> np.ndarray:
    """The level at each update whose window is known; shorter windows before a failure."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    begins = np.arange(len(losses))
    ends = np.minimum(begins + WINDOW, len(losses))
    levels = (sums[ends] - sums[begins]) / (ends - begins)
    return levels if failed else levels[: max(len(losses) - WINDOW + 1, 0)]
