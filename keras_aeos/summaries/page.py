"""The report: one HTML page on a run or a sweep, which needs no network."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from keras_aeos.summaries import charts
from keras_aeos.summaries.events import events
from keras_aeos.summaries.runs import Run, short_number

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
{library}
</head>
<body>
<header>
<h1>{title}</h1>
<p class="verdict">{verdict}</p>
</header>
<main>
{sections}
</main>
<footer>Written by keras_aeos. The page needs no network.</footer>
{script}
<script>
{behaviour}</script>
</body>
</html>
"""
_VERDICTS = {True: "pass", False: "miss", None: "open"}


def html(runs: Sequence[Run]) -> str:
    """The page.

    Args:
        runs: The runs, at least one.
    """
    script, elements = charts.draw(runs)
    sections = {
        "What was run": _what(runs),
        "Curves": _curves(runs, elements),
        "Verdicts": _verdicts(runs),
        "Events": _events(runs),
        "Environment and commands": _environment(runs),
    }
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return _PAGE.format(
        title=escape(f"Edge of stability: {title}"),
        verdict=escape(_verdict(runs)),
        style=_file("report.css"),
        library=charts.script(),
        sections="\n".join(
            f"<section><h2>{escape(name)}</h2>\n{content}\n</section>"
            for name, content in sections.items()
        ),
        script=script,
        behaviour=_file("report.js"),
    )


@dataclass(frozen=True)
class Claim:
    """What is claimed of every run, and of one what was measured.

    Attributes:
        title: The claim.
        measured: What was measured.
        holds: Whether it holds; None if the run can't tell.
    """

    title: str
    measured: str
    holds: bool | None


def claims(run: Run) -> list[Claim]:
    """The claims of a run with their verdicts, the same claims for every run."""
    summary = run.summary
    low, high = summary.claim
    reached = summary.edge_step is not None
    window = "steps {} to {}".format(*summary.window) if summary.window else "no window"
    ratio = f"{summary.ratio:.3f} in {window}, expected {low:g} to {high:g}"
    return [
        Claim(
            "reaches the edge",
            f"0.9 at step {summary.edge_step}" if reached else _largest(run),
            reached if summary.num_steps else None,
        ),
        Claim("stays there: R", ratio if summary.window else window, summary.holds),
        _rows("every row converged", run, "converged"),
        _rows("every row exact", run, "exact"),
    ]


def _rows(title: str, run: Run, column: str) -> Claim:
    if column not in run.metrics or run.metrics.empty:
        return Claim(title, "not recorded", None)
    good = int(run.metrics[column].astype(bool).sum())
    return Claim(title, f"{good} of {len(run.metrics)} rows", good == len(run.metrics))


def _largest(run: Run) -> str:
    largest = run.metrics["edge_ratio"].max()
    return "no ratio" if math.isnan(largest) else f"at most {largest:.3f}"


def _verdict(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        sentence = runs[0].summary.sentence()
        return f"{sentence[0].upper()}{sentence[1:]}."
    holds = [run.summary.holds for run in runs]
    undecided = f" {holds.count(None)} can't tell." if None in holds else ""
    return (
        f"{holds.count(True)} of {len(runs)} runs train at the edge of stability: their median "
        f"edge ratio R is where the paper finds it.{undecided}"
    )


def _what(runs: Sequence[Run]) -> str:
    rows = []
    for index, run in enumerate(runs):
        summary = run.summary
        rows.append(
            (
                _chip(index, run.name),
                escape(_optimizer(run)),
                escape(_trained(run)),
                f"{summary.num_steps:,}",
                escape(str(run.record.get("status", "")) or "-"),
                escape(_threshold(summary.threshold)),
            )
        )
    return _table(("run", "optimizer", "trained", "steps", "status", "λ*"), rows, {3, 5})


def _threshold(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _optimizer(run: Run) -> str:
    if not run.config:
        return run.card.get("optimizer", run.optimizer)
    given = (f"{k}={short_number(v)}" for k, v in run.settings.items() if v is not None)
    return f"{run.optimizer}({', '.join(given)})"


def _trained(run: Run) -> str:
    """The network, the data and the loss, in a line."""
    if not run.config:
        parts = (run.card.get(key, "") for key in ("model", "loss", "batch size"))
        return ", ".join(part for part in parts if part) or "not known"
    data, model = run.config.get("data") or {}, run.config.get("model") or {}
    size, batch = data.get("num_examples"), data.get("batch_size")
    return ", ".join(
        [
            str(model.get("name", run.record.get("choices", {}).get("config_name", "network"))),
            f"{data.get('name', 'data')}{f' ({size:,} examples)' if size else ''}",
            "full batch" if batch is None else f"batches of {batch:,}",
            str(run.config.get("loss", "")).replace("_", " "),
        ]
    )


def _verdicts(runs: Sequence[Run]) -> str:
    found = [claims(run) for run in runs]
    rows = [
        (_chip(index, run.name), *(_verdict_cell(claim) for claim in members))
        for index, (run, members) in enumerate(zip(runs, found, strict=True))
    ]
    note = (
        "R is the median edge ratio from the first row of 0.9 or more until the network has fitted "
        "its data. The expected range is that of the paper for the optimizer."
    )
    return _table(("run", *(claim.title for claim in found[0])), rows) + f"\n<p>{note}</p>"


def _verdict_cell(claim: Claim) -> str:
    verdict = _VERDICTS[claim.holds]
    return f'<span class="{verdict}">{verdict}</span> {escape(claim.measured)}'


def _curves(runs: Sequence[Run], elements: Sequence[str]) -> str:
    if not elements:
        return "<p>No rows.</p>"
    buttons = "".join(
        f'<button type="button" class="legend" data-run="{escape(run.name)}" aria-pressed="true">'
        f"{_chip(index, run.name)}</button>"
        for index, run in enumerate(runs)
    )
    hint = "Point at a curve for its numbers. Press a name to hide its curves."
    figures = "".join(f'<div class="chart">{element}</div>\n' for element in elements)
    return f'<p>{hint}</p>\n<p class="legends">{buttons}</p>\n<div class="charts">{figures}</div>'


def _events(runs: Sequence[Run]) -> str:
    rows = [
        (
            _chip(index, run.name),
            f"{event.first:,}" + (f" to {event.last:,}" if event.last > event.first else ""),
            f'<span class="{event.kind}">{event.kind}</span>',
            escape(event.text),
        )
        for index, run in enumerate(runs)
        for event in events(run.metrics)
    ]
    if not rows:
        return "<p>No crossing, no spike, no alarm.</p>"
    return _table(("run", "step", "kind", "what happened"), rows, {1})


def _environment(runs: Sequence[Run]) -> str:
    found = [_surroundings(run) for run in runs]
    shared = {
        key: value
        for key, value in found[0].items()
        if len(runs) > 1 and all(other[key] == value for other in found)
    }
    rows = [("all runs", *_named(key, value)) for key, value in shared.items() if value]
    for index, (run, own) in enumerate(zip(runs, found, strict=True)):
        rows += [
            (_chip(index, run.name), *_named(key, value))
            for key, value in own.items()
            if value and key not in shared
        ]
    return _table(("run", "", ""), rows)


def _named(key: str, value: str) -> tuple[str, str]:
    return f'<span class="key">{escape(key)}</span>', f"<code>{escape(value)}</code>"


def _surroundings(run: Run) -> dict[str, str]:
    """Where, when and how a run was made; empty texts for what is not known."""
    versions = run.record.get("versions") or {}
    machine = (run.card.get(key, "") for key in ("machine", "devices"))
    seconds = run.record.get("wall_seconds")
    return {
        "directory": str(run.directory),
        "command": run.card.get("command", ""),
        "started": str(run.record.get("started", "")),
        "wall time": f"{seconds:,.0f} s" if isinstance(seconds, (int, float)) else "",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
        or run.card.get("versions", ""),
        "commit": str(run.record.get("git_commit") or ""),
        "machine": ", ".join(filter(None, machine)),
    }


def _chip(index: int, name: str) -> str:
    return (
        f'<span class="chip" style="--run: {charts.colour(index)}"></span>'
        f'<span class="name">{escape(name)}</span>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells; a run's name is written once for all of its rows."""
    numbers = set(numbers)

    def line(cells: Sequence[Any], element: str) -> str:
        kinds = (' class="number"' if index in numbers else "" for index in range(len(cells)))
        return "".join(
            f"<{element}{kind}>{cell}</{element}>" for kind, cell in zip(kinds, cells, strict=True)
        )

    lines, last = [f"<thead><tr>{line([escape(name) for name in head], 'th')}</tr></thead>"], None
    lines.append("<tbody>")
    for row in rows:
        kind = ' class="same"' if row[0] == last else ""
        lines.append(f"<tr{kind}>{line(row, 'td')}</tr>")
        last = row[0]
    return '<div class="wide"><table>' + "\n".join([*lines, "</tbody></table></div>"])


def _file(name: str) -> str:
    return resources.files("keras_aeos.summaries").joinpath(name).read_text(encoding="utf-8")
