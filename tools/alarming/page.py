"""The tables and the picture of docs/acting.md, from the stored trainings."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.alarming import drawing, events, judging, plan
from tools.alarming.evaluation import AHEAD, EARLIEST, Case
from tools.benchmarking.tables import redrawn

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "acting.md"
PICTURE = ROOT / "docs" / "figures" / "alarms.png"
NUMBERS = ROOT / "docs" / "runs" / "alarms.json"
_KINDS = (events.NOT_FINITE, events.ABOVE_START, events.SPIKE)
# Titles of the columns, the numbers in them, whether they are shares, whether with an interval.
_COLUMNS = (
    ("AUROC", "auroc", False, True),
    ("recall at 1%", "recall at 1%", True, True),
    ("recall at 5%", "recall at 5%", True, True),
    (f"{AHEAD} ahead at 1%", f"{AHEAD} ahead at 1%", True, False),
    (f"{AHEAD} ahead at 5%", f"{AHEAD} ahead at 5%", True, False),
    ("notice at 5%", "notice at 5%", False, False),
)


def write(path: Path) -> None:
    """Judge the trainings of a table, and write all that follows from it."""
    cases = judging.cases_of(path)
    judged = [case for case in cases if not judging.at_start(case)]
    rule = judging.fitted(judged)
    judging.write_rule(rule, len(judged))
    numbers = {
        "trainings": counts(cases),
        "rules": judging.table(judged),
        "as fitted": judging.as_fitted(judged),
        "share of time": shares(judged),
    }
    NUMBERS.write_text(json.dumps(_rounded(numbers), indent=1) + "\n", encoding="utf-8")
    drawing.draw(judged).savefig(PICTURE, dpi=150)
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8"), stored()), encoding="utf-8")


def stored() -> dict[str, Any]:
    """The stored numbers."""
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def counts(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    """Numbers of trainings by network: all, with an event at the start or later, by its kind."""
    found = {}
    for name in plan.NETWORKS:
        own = [case for case in cases if case.training.network == name]
        if not own:
            continue
        later = [c.event for c in own if c.event is not None and not judging.at_start(c)]
        kinds = Counter(event.kind for event in later)
        found[name] = {
            "trainings": len(own),
            "at the start": sum(map(judging.at_start, own)),
            "later": len(later),
            **{kind: kinds[kind] for kind in _KINDS},
            "recovered": sum(event.recovered for event in later),
        }
    return found


def shares(cases: Sequence[Case]) -> dict[str, float]:
    """Share of the training time that rows take at each spacing: the median over the trainings."""
    ratios = [
        case.updates["seconds"].median() / case.updates["update_seconds"].median() for case in cases
    ]
    ratio = float(np.nanmedian(ratios))
    return {str(spacing): ratio / (ratio + spacing) for spacing in judging.SPACINGS}


def drawn(page: str, numbers: Mapping[str, Any]) -> str:
    """A page with its tables drawn again."""
    tables = {"trainings": _trainings(numbers), "rules": _rules(numbers), "used": _used(numbers)}
    return redrawn(page, tables)


def _trainings(numbers: Mapping[str, Any]) -> str:
    counted = numbers["trainings"]
    titles = list(next(iter(counted.values())))
    rows = [[name, *map(str, row.values())] for name, row in counted.items()]
    total = [str(sum(row[title] for row in counted.values())) for title in titles]
    heads = [titles[0], f"event within {EARLIEST} updates", "later event", *titles[3:]]
    return _table(["network", *heads], [*rows, ["all", *total]])


def _rules(numbers: Mapping[str, Any]) -> str:
    rows = []
    for name, found in numbers["rules"].items():
        cells = []
        for _, key, share, with_interval in _COLUMNS:
            text = _number(found["numbers"][key], share)
            if with_interval:
                low, high = (_number(value, share) for value in found["intervals"][key])
                text += f" ({low} to {high})"
            cells.append(text)
        rows.append([name, *cells])
    return _table(["rule", *(title for title, *_ in _COLUMNS)], rows)


def _used(numbers: Mapping[str, Any]) -> str:
    rows = [
        [
            f"a row every {spacing} updates",
            _number(found["false alarms"], True),
            _number(found["recall"], True),
            _number(found["ahead"], True),
            _number(found["notice"], False),
            _number(numbers["share of time"][spacing], True),
        ]
        for spacing, found in numbers["as fitted"].items()
    ]
    titles = ("false alarms", "recall", f"{AHEAD} ahead", "median notice", "share of the time")
    return _table(["", *titles], rows)


def _number(value: float | None, share: bool) -> str:
    if value is None or math.isnan(value):
        return "none"
    if share:
        return f"{value:.0%}"
    return f"{value:.3f}" if value < 1.0 else f"{value:g}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: Any) -> Any:
    """The same with four digits; JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
