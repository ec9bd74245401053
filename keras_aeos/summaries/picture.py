"""The picture of a run: loss, both sharpnesses, edge ratio and norms on one page."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_aeos.summaries import drawing
from keras_aeos.summaries.edge import EdgeSummary
from keras_aeos.summaries.runs import Run

_COLOUR, _LINE = "#0072b2", "#d55e00"
_SIZE = (11.0, 8.5)
# Nothing in a file depends on when or where it was made.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
_NORMS = {
    "gradient_norm_squared": r"$\|\nabla f\|^2$",
    "preconditioner_norm_squared": r"$\|P\|_F^2$",
}


def draw(metrics: pd.DataFrame, title: str, summary: EdgeSummary | None = None) -> Figure:
    """Draw the page of a run.

    Args:
        metrics: The rows of `metrics.csv`.
        title: The heading.
        summary: The run's summary, whose window is shaded and which stands below the heading; None
            (default) for neither.

    Returns:
        The figure.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.suptitle(title, fontsize="large", fontweight="bold")
    panels = figure.subplots(3, 2, sharex=True)
    rows = metrics.replace([math.inf, -math.inf], math.nan)
    if summary is not None:
        shaded = " (shaded)" if summary.window else ""
        figure.supxlabel(summary.sentence() + shaded, fontsize="medium")
    drawing.draw_loss(panels[0, 0], [rows], [_COLOUR])
    _ratio(panels[0, 1], rows, summary)
    _preconditioned(panels[1, 0], rows)
    _curve(panels[1, 1], rows, "sharpness", drawing.SHARPNESS_LABEL)
    for axes, (name, label) in zip(panels[2], _NORMS.items(), strict=True):
        _curve(axes, rows, name, label)
        axes.set_xlabel("step")
    figure.align_ylabels()
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata=_METADATA[".png"])
    return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or PDF; the same figure gives the same bytes."""
    figure.savefig(path, dpi=150, metadata=_METADATA[path.suffix])


def save_all(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Write the page of each run as PNG and PDF, named after the run; return the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for run in runs:
        title = run.name if run.optimizer == "unknown" else f"{run.optimizer}, {run.name}"
        figure = draw(run.metrics, title, run.summary)
        for suffix in _METADATA:
            paths.append(directory / f"{run.name.replace('/', '_')}{suffix}")
            save(figure, paths[-1])
    return paths


def _ratio(axes: Axes, rows: pd.DataFrame, summary: EdgeSummary | None) -> None:
    drawing.draw_curves(axes, [rows], [_COLOUR], "edge_ratio")
    axes.axhline(1.0, color=_LINE, linestyle="--", linewidth=1.1)
    if summary is not None and summary.window is not None:
        axes.axvspan(*summary.window, color=_COLOUR, alpha=0.08, linewidth=0)
    largest = rows["edge_ratio"].max()
    axes.set_ylim(0.0, min(max(1.2, 1.1 * largest), 4.0) if math.isfinite(largest) else 1.2)
    axes.set_ylabel(r"edge ratio $\lambda_1(P^{-1}H) / \lambda^*$")


def _preconditioned(axes: Axes, rows: pd.DataFrame) -> None:
    drawing.draw_preconditioned_sharpness(axes, [rows], [_COLOUR])
    curve, threshold = axes.get_lines()[:2]
    threshold.set_color(_LINE)
    axes.legend([curve, threshold], ["measured", r"threshold $\lambda^*$"], fontsize="small")


def _curve(axes: Axes, rows: pd.DataFrame, name: str, label: str) -> None:
    """One column; on a log axis if it is positive and spans more than a decade."""
    axes.set_ylabel(label)
    if name not in rows or rows[name].notna().sum() == 0:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="0.5")
        return
    drawing.draw_curves(axes, [rows], [_COLOUR], name)
    if rows[name].notna().sum() == 1:
        axes.get_lines()[0].set_marker("o")
    if rows[name].min() > 0 and rows[name].max() > 10 * rows[name].min():
        axes.set_yscale("log")
