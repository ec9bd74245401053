"""Runs that train a network: how they are read, and their row in a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from keras_aeos.summaries import drawing, edge
from tools.plotting.runs import SYMBOLS, Run, find_runs, read_table
from trainers import run_directory
from trainers.schema import DATASETS


@dataclass(frozen=True)
class TrainingRun(Run):
    """One finished run that trained a network, with its measurements."""

    metrics: pd.DataFrame
    summary: edge.EdgeSummary

    @property
    def optimizer(self) -> str:
        """Name of the optimizer."""
        return self.config["optimizer"]["name"]


def read_runs(root: Path, *names: str) -> list[TrainingRun]:
    """Read the runs of the first of these configurations that has any.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    return [read_run(run) for run in find_runs(root, *names)]


def read_run(run: Run) -> TrainingRun:
    """Read the measurements of a run."""
    metrics = read_table(run.directory, run_directory.METRICS, edge.COLUMNS)
    summary = edge.edge_summary(
        metrics,
        run.config["loss"],
        run.record.get("first_loss"),
        edge.claim(run.config["optimizer"]["name"]),
    )
    return TrainingRun(run.directory, run.config, run.record, metrics, summary)


def draw_loss(axes: Axes, tables: Sequence[pd.DataFrame], colours: Sequence[Any]) -> None:
    """Draw the losses of runs, with their start even where most rows are of its end.

    The first row of a run that diverged may lie outside.
    """
    drawing.draw_loss(axes, list(tables), list(colours))
    losses = pd.concat([table["loss"] for table in tables])
    losses = losses[(losses > 0) & (losses < math.inf)]
    first = pd.Series([table["loss"].iloc[0] for table in tables if len(table)], dtype=float)
    if losses.empty or not math.isfinite(first.median()):
        return
    top = 1.05 * first[first <= 2 * first.median()].max()
    axes.set_ylim(top=max(axes.get_ylim()[1], top))
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom=losses.min() / 1.5)


def settings(run: TrainingRun) -> dict[str, Any]:
    """The columns of a table that name a run's settings."""
    return {
        **{name: run.setting(name) for name in SYMBOLS},
        "examples": num_examples(run),
        "loss": run.config["loss"],
    }


def num_examples(run: TrainingRun) -> int:
    """Number of training examples."""
    data = run.config["data"]
    return data["num_examples"] or DATASETS[data["name"]].num_examples


def table_row(run: TrainingRun) -> dict[str, Any]:
    """A run's row in a table; None stands for a missing value."""
    summary = run.summary
    span = summary.window or _plateau_after_fit(run)
    at_step = run.metrics.set_index("step")["sharpness"].get
    begin, end = map(at_step, span) if span else (None, None)
    return {
        **settings(run),
        "steps": summary.num_steps,
        "threshold": summary.threshold,
        "edge_step": summary.edge_step,
        "fit_step": summary.fit_step,
        "window": "{}-{}".format(*summary.window) if summary.window else None,
        "R": summary.ratio,
        "claim": "{:g}-{:g}".format(*summary.claim),
        "claim_holds": _holds(run),
        "R_to_end": summary.ratio_to_end,
        "sharpness_begin": begin,
        "sharpness_end": end,
        "remark": _remark(run),
    }


def _plateau_after_fit(run: TrainingRun) -> tuple[int, int] | None:
    """Steps at the edge of a run that fitted its data before; None if there is no such plateau.

    With the squared error a run stays at the edge after it has fitted its data, unlike with the
    cross-entropy, whose curvature vanishes.
    """
    summary = run.summary
    if run.config["loss"] != "squared_error" or summary.edge_step is None or summary.window:
        return None
    return summary.edge_step, summary.num_steps


def _holds(run: TrainingRun) -> bool | None:
    """Whether R, or R to the end on a plateau after the fit, is within the claimed range."""
    summary = run.summary
    if _plateau_after_fit(run):
        return summary.claim[0] <= summary.ratio_to_end <= summary.claim[1]
    return summary.holds


def _remark(run: TrainingRun) -> str:
    remarks = []
    if run.record["status"] == "diverged":
        remarks.append("diverged")
    if run.summary.edge_step is None:
        remarks.append("edge not reached")
    elif _plateau_after_fit(run):
        remarks.append("fitted before the edge: judged by R to end")
    elif run.summary.window is None:
        remarks.append("no window: fitted before the edge")
    return ", ".join(remarks)
