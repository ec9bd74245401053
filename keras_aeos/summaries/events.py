"""What happened in a run: crossings of the edge, spikes of the loss, alarms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from keras_aeos import alarm_rule
from keras_aeos.summaries.edge import REACHED

# A loss this many times the smallest of the rows before it is a spike.
_SPIKE, _SPIKE_ROWS = 2.0, 5
# An upper bound this many times the eigenvalue leaves room for a larger one.
_LOOSE = 2.0


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        first: Step at which it began.
        last: Last step of it.
        kind: "crossing", "spike", "divergence" or "alarm".
        text: What happened.
    """

    first: int
    last: int
    kind: str
    text: str


def events(metrics: pd.DataFrame) -> list[Event]:
    """The events of a run, in the order of their steps.

    A crossing is a row at which the edge ratio has passed 0.9 or 1 since the row before. A spike is
    a loss of more than twice the smallest of the last five rows. A divergence is announced where
    `DivergenceAlarm` raises an alarm. Rows in sequence that give the same alarm are one event.

    Args:
        metrics: The rows of `metrics.csv`.
    """
    found = [*_crossings(metrics), *_spikes(metrics), *_divergences(metrics), *_alarms(metrics)]
    return sorted(found, key=lambda event: (event.first, event.kind))


def _crossings(metrics: pd.DataFrame) -> Iterator[Event]:
    measured = metrics.dropna(subset="edge_ratio")
    steps, ratios = measured["step"].tolist(), measured["edge_ratio"].tolist()
    ups = [i for i in range(1, len(ratios)) if ratios[i - 1] < 1.0 <= ratios[i]]
    near = next((i for i, ratio in enumerate(ratios) if ratio >= REACHED), None)
    if near is not None:
        yield Event(steps[near], steps[near], "crossing", f"the edge ratio reaches {REACHED:g}")
    if ups:
        times = "once" if len(ups) == 1 else f"{len(ups)} times"
        text = f"the edge ratio rises above 1, {times}"
        yield Event(steps[ups[0]], steps[ups[-1]], "crossing", text)


def _spikes(metrics: pd.DataFrame) -> Iterator[Event]:
    before = metrics["loss"].shift(1).rolling(_SPIKE_ROWS, min_periods=1).min()
    spike = (metrics["loss"] > _SPIKE * before) & (before > 0)
    for first, last in _stretches(metrics, spike):
        inside = metrics["step"].between(first, last)
        factor = (metrics["loss"] / before)[inside].max()
        yield Event(first, last, "spike", f"the loss rises to {factor:.3g} times its last minimum")


def _divergences(metrics: pd.DataFrame) -> Iterator[Event]:
    rule = alarm_rule.load()
    rows = {name: metrics[name].to_numpy(np.float64) for name in alarm_rule.COLUMNS}
    scores = rule.scores(rows)
    for place in rule.raised(scores):
        step = int(metrics["step"].iloc[place])
        text = f"about to diverge or spike: edge ratio {rows['edge_ratio'][place]:.3g}"
        yield Event(step, step, "divergence", text)


def _alarms(metrics: pd.DataFrame) -> Iterator[Event]:
    ratio = metrics["edge_ratio"]
    conditions = {
        "no edge ratio: the measurement failed, or P is not known": ratio.isna(),
        "the loss is not finite": ~(metrics["loss"].abs() < math.inf) & ratio.notna(),
    }
    if "converged" in metrics:
        missed = ~metrics["converged"].astype(bool) & ratio.notna()
        conditions["the eigenvalue missed its tolerance"] = missed
    if "exact" in metrics and not metrics["exact"].astype(bool).any():
        conditions["rows are not exact: P, the threshold or the loss is approximate"] = ~metrics[
            "exact"
        ].astype(bool)
    if "upper_bound" in metrics:
        loose = metrics["upper_bound"] > _LOOSE * metrics["preconditioned_sharpness"]
        conditions["the solver has not ruled out an eigenvalue twice as large"] = loose & (
            metrics["preconditioned_sharpness"] > 0
        )
    for text, condition in conditions.items():
        for first, last in _stretches(metrics, condition):
            yield Event(first, last, "alarm", text)


def _stretches(metrics: pd.DataFrame, condition: "pd.Series[bool]") -> Iterator[tuple[int, int]]:
    """First and last step of each sequence of rows that meet a condition."""
    number = (condition != condition.shift()).cumsum()
    for _, steps in metrics["step"][condition].groupby(number[condition]):
        yield int(steps.iloc[0]), int(steps.iloc[-1])
