"""What the rules are worth on the stored trainings: the table, and the alarm's coefficients."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_aeos import alarm_rule
from tools.alarming import curves, events, fitting
from tools.alarming.evaluation import (
    AHEAD,
    EARLIEST,
    Case,
    Scored,
    intervals,
    judge,
    scored,
    threshold,
)
from tools.alarming.rules import RULES

OURS = "DivergenceAlarm"
# Updates between rows at which the alarm is judged; the rule is fitted to all of them.
SPACINGS = (8, 16, 32)
# False alarms per training that the alarm's own threshold is chosen for.
RATE = 0.05


def cases_of(path: Path) -> list[Case]:
    """The trainings of a table, with their events."""
    return [
        Case(training, updates, events.find(updates["fixed_loss"].to_numpy()))
        for training, updates in curves.read(path)
    ]


def at_start(case: Case) -> bool:
    """Whether a training fails before anything can have been measured."""
    return case.event is not None and case.event.onset <= EARLIEST


def of_rule(case: Case, rule: alarm_rule.Rule, spacing: int) -> np.ndarray:
    """The score of the last row after each update, -inf before the first."""
    rows = fitting.rows_of(case.updates, spacing)
    scores = pd.Series(rule.scores(rows), index=rows["step"])
    # A row without an edge ratio leaves the score as it was.
    known = scores.reindex(case.updates["update"]).ffill().fillna(-np.inf)
    return known.to_numpy(np.float64)


def of_ours(case: Case, rule: alarm_rule.Rule, spacing: int) -> Scored:
    """A training as the alarm scores it, with a row every so many updates."""
    return scored(case, of_rule(case, rule, spacing))


def of_rivals(cases: Sequence[Case]) -> dict[str, list[Scored]]:
    """The trainings as each of `RULES` scores them."""
    return {
        name: [scored(case, rule(case.updates)) for case in cases] for name, rule in RULES.items()
    }


def left_out(cases: Sequence[Case]) -> dict[str, alarm_rule.Rule]:
    """For each network the rule that is fitted to the others, with a threshold from them."""
    rules = {}
    for name in sorted({case.training.network for case in cases}):
        others = [case for case in cases if case.training.network != name]
        rules[name] = fitted(others)
    return rules


def fitted(cases: Sequence[Case]) -> alarm_rule.Rule:
    """The rule, with the threshold of `RATE` false alarms per training with a row every 8."""
    rule = fitting.fit(cases, SPACINGS)
    quiet = [case for case in cases if case.event is None]
    scores = [of_ours(case, rule, SPACINGS[0]).score for case in quiet]
    return alarm_rule.Rule(rule.weights, rule.intercept, threshold(scores, RATE))


def table(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Each rule's numbers with their intervals, ours at each spacing."""
    rules = left_out(cases)
    scores: dict[str, list[Scored]] = {}
    for spacing in SPACINGS:
        scores[f"{OURS}, a row every {spacing} updates"] = [
            of_ours(case, rules[case.training.network], spacing) for case in cases
        ]
    scores |= of_rivals(cases)
    return {
        name: {"numbers": judge(found), "intervals": intervals(found)}
        for name, found in scores.items()
    }


def as_fitted(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """What comes of the alarm as it is used: rule and threshold are of the other networks."""
    rules = left_out(cases)
    found = {}
    for spacing in SPACINGS:
        raised, notices, late = [], [], []
        for case in cases:
            rule = rules[case.training.network]
            each = of_ours(case, rule, spacing)
            if case.event is None:
                raised.append(each.score > rule.threshold)
            else:
                notices.append(each.notice(rule.threshold))
                late.append(case.event.onset > EARLIEST + AHEAD)
        ahead = np.nan_to_num(notices) >= AHEAD
        announced = np.isfinite(notices)
        found[str(spacing)] = {
            "false alarms": float(np.mean(raised)),
            "recall": float(np.mean(announced)),
            "ahead": float(np.mean(ahead[np.array(late, bool)])),
            "notice": float(np.median(np.array(notices)[announced])),
        }
    return found


def write_rule(rule: alarm_rule.Rule, num_trainings: int) -> None:
    """Write the coefficients into the package."""
    path = Path(alarm_rule.__file__).with_name("alarm_rule.json")
    stored = {
        "command": "python tools/alarms.py judge",
        "trainings": num_trainings,
        "weights": {name: float(f"{weight:.4g}") for name, weight in rule.weights.items()},
        "intercept": float(f"{rule.intercept:.4g}"),
        "threshold": float(f"{rule.threshold:.4g}"),
    }
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
