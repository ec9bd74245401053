"""The report: one HTML page on a run or a sweep, which needs no network."""

import math
from collections.abc import Iterable, Sequence
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
        "Verdicts": _verdicts(runs),
        "Curves": _curves(runs, elements),
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


def claims(run: Run) -> list[tuple[str, str, bool | None]]:
    """What is claimed of a run: the claim, what was measured, and whether it holds.

    None stands for a claim that the run can't decide.
    """
    summary, metrics = run.summary, run.metrics
    low, high = summary.claim
    reached = summary.edge_step is not None
    near = f"first at step {summary.edge_step}" if reached else _largest(run)
    window = "steps {} to {}".format(*summary.window) if summary.window else "no window"
    found = [
        ("The edge ratio reaches 0.9", near, reached if summary.num_steps else None),
        (
            f"R, the median ratio from there until the data are fitted, is {low:g} to {high:g}",
            f"{summary.ratio:.3f}, {window}" if summary.window else window,
            summary.holds,
        ),
    ]
    if "converged" in metrics and len(metrics):
        good = int(metrics["converged"].astype(bool).sum())
        found.append(
            ("Every eigenvalue met its tolerance", f"{good} of {len(metrics)} rows",
             good == len(metrics))
        )  # fmt: skip
    if "exact" in metrics and len(metrics):
        good = int(metrics["exact"].astype(bool).sum())
        found.append(
            ("Loss, P and λ* are those of the update", f"{good} of {len(metrics)} rows",
             good == len(metrics))
        )  # fmt: skip
    return found


def _largest(run: Run) -> str:
    largest = run.metrics["edge_ratio"].max()
    return "no ratio" if math.isnan(largest) else f"at most {largest:.3f}"


def _verdict(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].summary.sentence()
    holds = [run.summary.holds for run in runs]
    undecided = f", {holds.count(None)} can't tell" if None in holds else ""
    return f"R is within the claimed range in {holds.count(True)} of {len(runs)} runs{undecided}."


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
                escape(short_number(float(f"{summary.threshold:.5g}"))),
            )
        )
    return _table(("run", "optimizer", "trained", "steps", "status", "λ*"), rows, {3, 5})


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
    rows = [
        (
            _chip(index, run.name),
            escape(claim),
            escape(measured),
            f'<span class="{_VERDICTS[holds]}">{_VERDICTS[holds]}</span>',
        )
        for index, run in enumerate(runs)
        for claim, measured, holds in claims(run)
    ]
    return _table(("run", "claim", "measured", "verdict"), rows)


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
    rows = []
    for index, run in enumerate(runs):
        versions = run.record.get("versions") or {}
        found = {
            "directory": str(run.directory),
            "command": run.card.get("command", ""),
            "started": str(run.record.get("started", "")),
            "wall time": f"{run.record['wall_seconds']:,.0f} s" if "wall_seconds" in run.record
            else "",
            "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
            or run.card.get("versions", ""),
            "commit": str(run.record.get("git_commit") or ""),
            "machine": ", ".join(
                run.card[key] for key in ("machine", "devices") if run.card.get(key)
            ),
        }  # fmt: skip
        rows += [
            (_chip(index, run.name), escape(key), f"<code>{escape(value)}</code>")
            for key, value in found.items()
            if value
        ]
    return _table(("run", "", ""), rows)


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
