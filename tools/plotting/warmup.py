"""Figure 7 of the paper: the preconditioned sharpness during the warm-up of the learning rate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from keras_aeos.summaries import drawing, edge
from tools.plotting.runs import Figures, Run, find_runs, read_table
from trainers import run_directory
from trainers.errors import UserError

COLUMNS = ("step", "preconditioned_sharpness", "stability_threshold", "edge_ratio")
TITLES = {"pre": "Pre-LN", "post": "Post-LN"}
# Parts of the warm-up at which the table gives the edge ratio.
PARTS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class WarmUpRun(Run):
    """One finished run with its measurements."""

    metrics: pd.DataFrame


def read_runs(root: Path, *names: str) -> list[WarmUpRun]:
    """Read the runs of the first of these configurations that has any.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    return [
        WarmUpRun(
            run.directory,
            run.config,
            run.record,
            read_table(run.directory, run_directory.METRICS, COLUMNS),
        )
        for run in find_runs(root, *names)
    ]


def draw_fig07(runs: list[WarmUpRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 7: panels for Pre-LN and Post-LN, one colour per batch size, on log-log axes.

    The dots are 38/η(t), which falls while the learning rate rises and is level after the warm-up.

    Raises:
        UserError: A run has no warm-up, or two have the same settings.
    """
    by_norm = {name: _ordered(runs, name) for name in TITLES}
    present = [name for name in TITLES if by_norm[name]]
    figure = Figure(figsize=(1.0 + 4.2 * len(present), 4.4), layout="constrained")
    panels = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    rows = []
    for name, axes in zip(present, panels, strict=True):
        members = by_norm[name]
        colours = sns.color_palette("colorblind", len(members))
        for run, colour in zip(members, colours, strict=True):
            table = run.metrics
            values = table["preconditioned_sharpness"].where(table["preconditioned_sharpness"] > 0)
            axes.plot(table["step"], values, color=colour, label=_label(run))
        longest = max((run.metrics for run in members), key=lambda table: table["step"].iloc[-1])
        axes.plot(
            longest["step"],
            longest["stability_threshold"],
            color="0.2",
            linestyle=":",
            label=r"threshold, $38/\eta(t)$",
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(TITLES[name], fontsize="medium")
        axes.set_xlabel("step")
        axes.legend(fontsize="small", frameon=False)
        rows += [_row(run) for run in members]
    panels[0].set_ylabel(drawing.PRECONDITIONED_LABEL)
    return figure, pd.DataFrame(rows)


def _ordered(runs: list[WarmUpRun], norm: str) -> list[WarmUpRun]:
    members = [run for run in runs if run.config["model"].get("norm") == norm]
    for run in members:
        if not run.config.get("schedule", {}).get("warmup_steps"):
            raise UserError(f"{run.directory} has no warm-up: schedule.warmup_steps is 0")
    members.sort(key=lambda run: run.config["data"]["batch_size"])
    sizes = [run.config["data"]["batch_size"] for run in members]
    if len(set(sizes)) < len(sizes):
        raise UserError(
            f"two runs of {TITLES[norm]} have the same batch size; name a directory or an archive "
            "that holds only one of them"
        )
    return members


def _label(run: WarmUpRun) -> str:
    diverged = ", diverged" if run.record["status"] == "diverged" else ""
    return f"batch {run.config['data']['batch_size']:,}{diverged}"


def _row(run: WarmUpRun) -> dict[str, Any]:
    """A run's row in the table; None where it was not measured."""
    warmup = run.config["schedule"]["warmup_steps"]
    table = run.metrics
    during = table[table["step"] <= warmup]
    reached = during["step"][during["edge_ratio"] >= edge.REACHED]
    edge_step = int(reached.iloc[0]) if len(reached) else None
    return {
        "norm": TITLES[run.config["model"]["norm"]],
        "batch_size": run.config["data"]["batch_size"],
        "learning_rate": run.setting("learning_rate"),
        "warmup_steps": warmup,
        **{f"ratio_at_{part:.0%}": _ratio_near(table, part * warmup) for part in PARTS},
        "edge_step": edge_step,
        "largest_ratio": float(during["edge_ratio"].max()),
        "slope": None if edge_step is None else _slope(during[during["step"] >= edge_step]),
        "steps": run.record["steps"],
        "status": run.record["status"],
    }


def _ratio_near(table: pd.DataFrame, step: float) -> float | None:
    """Edge ratio of the measurement nearest to a step, on a log axis; None if over 20% away."""
    distance = np.abs(np.log(table["step"] / step))
    nearest = distance.idxmin()
    return float(table["edge_ratio"][nearest]) if distance[nearest] < np.log(1.2) else None


def _slope(rows: pd.DataFrame) -> float | None:
    """Slope of log λ₁(P⁻¹H) over log step; -1 is that of the threshold."""
    finite = rows[np.isfinite(rows["preconditioned_sharpness"])]
    if len(finite) < 3:
        return None
    logs = np.log(finite[["step", "preconditioned_sharpness"]].to_numpy(float))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


FIGURES: Figures = {
    "fig07": (read_runs, draw_fig07),
}
