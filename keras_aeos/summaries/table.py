"""The summary of runs as a table in the terminal."""

import math
from collections.abc import Sequence

from keras_aeos.summaries.runs import Run

_COLUMNS = ("run", "optimizer", "threshold", "R", "claim", "at the edge", "time there")
_COSTS = ("products", "overhead")


def table(runs: Sequence[Run]) -> str:
    """One line a run: λ*, R, the first step at the edge, the time there, products, overhead."""
    lines = [(*_COLUMNS, *_COSTS), *(_line(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (lines[0], rule, *lines[1:])
    )


def small_table(run: Run) -> str:
    """The same of one run, a line a value."""
    names = (
        *("stability threshold", "edge ratio R", "claimed", "first step at the edge"),
        *("time at the edge", "Hessian-vector products", "overhead"),
    )
    width = max(map(len, names))
    return "\n".join(
        f"  {name.ljust(width)}  {value}" for name, value in zip(names, _line(run)[2:], strict=True)
    )


def _line(run: Run) -> tuple[str, ...]:
    summary, metrics = run.summary, run.metrics
    low, high = summary.claim
    verdict = {True: "holds", False: "missed", None: "no window"}[summary.holds]
    return (
        run.name,
        run.optimizer,
        _number(summary.threshold),
        _number(summary.ratio, ".3f"),
        f"{low:g} to {high:g}: {verdict}",
        f"step {summary.edge_step}" if summary.edge_step is not None else "not reached",
        f"{summary.share_at_edge:.0%} of the steps" if summary.num_steps else "-",
        f"{int(metrics['num_hvps'].sum()):,}" if "num_hvps" in metrics else "-",
        f"{metrics['overhead'].iloc[-1]:.1%}" if "overhead" in metrics and len(metrics) else "-",
    )


def _number(value: float, form: str = ".5g") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"
