r"""The rule of `DivergenceAlarm`: from the rows of a monitor to the score of an alarm.

The score is a probability that training diverges or spikes soon,

    1 / (1 + exp(-b - Σⱼ wⱼ xⱼ)),

of a few features xⱼ of the rows up to now. The coefficients are in ``alarm_rule.json``, with the
threshold above which the score is an alarm. ``python tools/alarms.py judge`` fits them to the
trainings of ``docs/runs/alarms.csv.xz`` and writes the file.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources

import numpy as np

# Bounds of the logarithms: beyond them they say no more. A ratio far above 1 is often that of a few
# parameters with a tiny P, where the next gradient brings P up again.
_RATIO = (-3.0, 1.0)
_RISE = (0.0, 2.0)
# The columns of a row that the features are of.
COLUMNS = ("step", "edge_ratio", "loss")


def ratio(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logarithm of the edge ratio."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(rows["edge_ratio"], 0.0))
    return np.clip(logs, *_RATIO)


def rise(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logarithm of the loss over its smallest value so far; 0 if that is not positive."""
    lowest = np.fmin.accumulate(rows["loss"])
    factor = np.divide(rows["loss"], lowest, out=np.ones_like(lowest), where=lowest > 0.0)
    return np.clip(np.log(np.where(factor > 1.0, factor, 1.0)), *_RISE)


FEATURES: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    "ratio": ratio,
    "rise": rise,
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The coefficients of the rule.

    Attributes:
        weights: The weight of each feature by its name, in `FEATURES`.
        intercept: b.
        threshold: A score above it is an alarm.
    """

    weights: Mapping[str, float]
    intercept: float
    threshold: float

    def scores(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """The score of each row, NaN where the edge ratio is not known.

        Args:
            rows: Arrays (n,) of the columns of a monitor in `COLUMNS`, with rising steps.
        """
        total = np.full(len(rows["step"]), self.intercept)
        for name, weight in self.weights.items():
            total += weight * FEATURES[name](rows)
        return np.where(np.isnan(rows["edge_ratio"]), np.nan, 1.0 / (1.0 + np.exp(-total)))

    def raised(self, scores: Iterable[float]) -> list[int]:
        """The places of the rows that raise an alarm.

        These are the first with a score above the threshold, and the first after each time that the
        score has been at most half of it.

        >>> Rule({}, 0.0, 0.4).raised([0.1, 0.5, 0.3, 0.5, 0.2, 0.6])
        [1, 5]
        """
        places, armed = [], True
        for place, score in enumerate(scores):
            if armed and score > self.threshold:
                places.append(place)
                armed = False
            elif score <= self.threshold / 2.0:
                armed = True
        return places


@functools.cache
def load() -> Rule:
    """The rule of the package."""
    text = resources.files(__package__).joinpath("alarm_rule.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    return Rule(stored["weights"], stored["intercept"], stored["threshold"])
