"""Figures 9 and 18 of the paper: what happens when a run crosses its stability threshold."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_aeos.summaries import drawing
from tools.plotting import training_runs
from tools.plotting.runs import Figures, ordered, settings_label
from tools.plotting.training_runs import TrainingRun, settings
from trainers import run_directory
from trainers.errors import UserError

# The runs of Figure 8 also have what Figures 9 and 18 show.
SHARED = "fig08"
VARIED = ("learning_rate",)
# Growth after a crossing that is more than the wavering of a stable run: of ‖∇f‖², which
# oscillates, and of ‖P‖², which follows it slowly.
GRADIENT_GROWTH, PRECONDITIONER_GROWTH = 2, 1.01
# A measurement is of a spike from SPIKE times the median of those within SPAN steps. In a spike the
# gradient is large and small in turns: measurements at most APART steps apart are of the same one.
SPIKE, SPAN, APART = 3, 50, 10
# Share of a spike that counts as almost all of it.
ALMOST_ALL = 0.9
ZOOMED = {
    "loss": "training loss",
    "preconditioned_sharpness": drawing.PRECONDITIONED_LABEL,
    "gradient_norm_squared": "squared gradient\n$\\|\\nabla f\\|^2$",
    "preconditioner_norm_squared": "squared preconditioner\n$\\|P\\|_F^2$",
    "sharpness": drawing.SHARPNESS_LABEL,
}
WHOLE, PART, REMAINDER = (
    *("semi_preconditioned_gradient_norm_squared", "alignment", "alignment_remainder"),
)
_CROSSING: dict[str, Any] = {"color": "tab:red", "linestyle": ":", "linewidth": 1.1}
_THRESHOLD: dict[str, Any] = {"color": "0.3", "linestyle": (0, (5, 2)), "linewidth": 1.1}


def read_runs(root: Path, figure: str) -> list[TrainingRun]:
    """Read the runs of a figure or, where there are none, those of Figure 8.

    Raises:
        UserError: There are neither, or one cannot be drawn.
    """
    return training_runs.read_runs(root, figure, SHARED)


def upward_crossings(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Find where the line through the points ``(steps, values)``, each (n,), rises to 1 from below.

    >>> upward_crossings(np.array([10, 11, 12, 14]), np.array([0.9, 1.1, 0.5, 1.0]))
    array([10.5, 14. ])
    """
    before, after = values[:-1], values[1:]
    up = np.flatnonzero((before < 1) & (after >= 1))
    part = (1 - before[up]) / (after[up] - before[up])
    return steps[up] + part * (steps[up + 1] - steps[up])


def in_spikes(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether each value is at least 3 times the median within 50 steps of it, bool (n,)."""
    medians = [np.median(values[np.abs(steps - step) <= SPAN]) for step in steps]
    return values >= SPIKE * np.array(medians)


def num_spikes(steps: np.ndarray) -> int:
    """Count the spikes to which measurements at these ascending steps belong.

    >>> num_spikes(np.array([100, 102, 104, 140]))
    2
    """
    return int(len(steps) > 0) + int((np.diff(steps) > APART).sum())


def draw_fig09(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 9: one column per learning rate, over the steps that were measured one by one.

    Raises:
        UserError: No run is configured for such steps, or one ended before them.
    """
    runs = [run for run in runs if run.config["monitor"].get("every_step")]
    if not runs:
        raise UserError(
            "no run was measured after every step; set monitor.every_step=[begin,end], or make the "
            "runs of --config-name fig09"
        )
    runs = _measuring(runs, ("gradient_norm_squared", "preconditioner_norm_squared"))
    figure, panels = _columns(runs, len(ZOOMED))
    rows = []
    for index, run in enumerate(runs):
        window = _window(run)
        steps = window["step"].to_numpy()
        crossings = upward_crossings(steps, window["edge_ratio"].to_numpy())
        for axes, (name, label) in zip(panels[:, index], ZOOMED.items(), strict=True):
            for crossing in crossings:
                axes.axvline(crossing, **_CROSSING)
            axes.plot(steps, window[name], color="C0", linewidth=1.3)
            axes.set_ylabel("" if index else label)
        panels[1, index].plot(steps, window["stability_threshold"], **_THRESHOLD)
        panels[-1, index].set_xlim(steps[0], steps[-1])
        rows.append({**settings(run), **_zoom(window, crossings)})
    handles = [Line2D([], [], **style) for style in (_THRESHOLD, _CROSSING)]
    _legend(figure, handles, ["stability threshold", r"$\lambda_1(P^{-1}H)$ rises above it"])
    return figure, pd.DataFrame(rows)


def draw_fig18(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 18: one column per learning rate; how much of the gradient is along the top.

    Raises:
        UserError: No run has the quantity `alignment`.
    """
    runs = _measuring(runs, ("alignment",))
    most = max(run.config["monitor"]["num_eigenvalues"] for run in runs)
    blues = sns.color_palette("Blues_r", most + 2)[:most]
    styles: dict[str, tuple[str, dict[str, Any]]] = {
        WHOLE: (r"$\|P^{-1/2}\nabla f\|^2$", {"color": "C0", "linewidth": 2.4}),
        PART: (f"its part along the top {most} eigenvectors", {"color": "C1", "linewidth": 1.1}),
        REMAINDER: ("the remainder", {"color": "C2", "linewidth": 1.1}),
    }
    figure, panels = _columns(runs, 3)
    rows = []
    for (above, middle, below), run in zip(panels.T, runs, strict=True):
        table = _finite(run.metrics)
        training_runs.draw_loss(above, [table], ["C0"])
        for order, name in reversed(list(enumerate(_eigenvalues(run)))):
            middle.plot(table["step"], table[name], color=blues[order], linewidth=1.3)
        middle.plot(table["step"], table["stability_threshold"], **_THRESHOLD)
        middle.set_ylim(0, 1.6 * table["stability_threshold"].max())
        for name, (_, style) in styles.items():
            below.plot(table["step"], table[name], **style)
        edge_step = run.summary.edge_step
        at_edge = table[table["step"] >= (math.inf if edge_step is None else edge_step)]
        if len(at_edge):
            below.set_ylim(0, 1.08 * at_edge[WHOLE].max())  # what is before may be much more
        rows.append({**settings(run), **_alignment(run, at_edge)})
    labels = ("training loss", f"top {most} eigenvalues\nof $P^{{-1}}H$", "squared norm")
    for axes, label in zip(panels[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")
    handles = [Line2D([], [], color=blue, linewidth=1.3) for blue in blues]
    handles += [Line2D([], [], **_THRESHOLD)]
    handles += [Line2D([], [], **style) for _, style in styles.values()]
    names = [rf"$\lambda_{order}$" for order in range(1, most + 1)]
    names += ["stability threshold", *(label for label, _ in styles.values())]
    _legend(figure, handles, names)
    return figure, pd.DataFrame(rows)


def _measuring(runs: Sequence[TrainingRun], quantities: Sequence[str]) -> list[TrainingRun]:
    """Select the runs that measured some quantities, sorted by learning rate."""
    chosen = [run for run in runs if all(name in run.metrics for name in quantities)]
    if not chosen:
        missing = [name for name in quantities if name not in runs[0].metrics]
        raise UserError(
            f"{runs[0].directory / run_directory.METRICS} lacks the quantity "
            f"{', '.join(missing)}; name it in monitor.quantities, as configs/fig08.yaml does"
        )
    return ordered(chosen, VARIED)


def _window(run: TrainingRun) -> pd.DataFrame:
    begin, end = run.config["monitor"]["every_step"]
    window = _finite(run.metrics[run.metrics["step"].between(begin, end)])
    window = window.dropna(subset=["edge_ratio", *ZOOMED])
    if len(window) < 2:
        raise UserError(
            f"{run.directory} has fewer than two measurements between step {begin} and step {end}; "
            f"it ended at step {run.summary.num_steps}: set monitor.every_step to earlier steps"
        )
    return window


def _finite(table: pd.DataFrame) -> pd.DataFrame:
    return table.replace([math.inf, -math.inf], math.nan)


def _eigenvalues(run: TrainingRun) -> list[str]:
    count = run.config["monitor"]["num_eigenvalues"]
    return [
        "preconditioned_sharpness",
        *(f"preconditioned_sharpness_{order}" for order in range(2, count + 1)),
    ]


def _columns(runs: Sequence[TrainingRun], num_rows: int) -> tuple[Figure, Any]:
    """Make a figure with one column of panels per run, titled by learning rate."""
    width = 1.2 + max(3.6 * len(runs), 4.8)
    figure = Figure(figsize=(width, 1.0 + 1.7 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, len(runs), sharex="col", squeeze=False)
    for column, run in zip(panels.T, runs, strict=True):
        column[0].set_title(settings_label(run, VARIED), fontsize="medium")
        column[-1].set_xlabel("step")
        for axes in column[1:]:
            axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
    figure.align_ylabels()
    return figure, panels


def _legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )


def _zoom(window: pd.DataFrame, crossings: np.ndarray) -> dict[str, Any]:
    """The columns of Figure 9's table on the crossings: medians and counts.

    The paper's account: after a crossing the gradient grows explosively, and P with it, until
    λ₁(P⁻¹H) is below the threshold again. At a small learning rate λ₁(H) has no part in this fall,
    at a large one it also falls.
    """
    first, last = window.iloc[0], window.iloc[-1]
    ends = np.append(crossings, math.inf)[1:]
    found = [aftermath(window, *span) for span in zip(crossings, ends, strict=True)]
    after = pd.DataFrame(found, columns=_AFTERMATH).dropna(subset="steps_above")
    grown = after["gradient_growth"] >= GRADIENT_GROWTH
    adapted = after["preconditioner_growth"] >= PRECONDITIONER_GROWTH
    share = after["share_of_H"].median()
    return {
        "steps": f"{first['step']:.0f}-{last['step']:.0f}",
        "threshold": last["stability_threshold"],
        "crossings": len(crossings),
        "returns": len(after),
        **after.median(),
        "gradient_grew": f"{grown.sum()} of {len(after)}",
        "preconditioner_grew": f"{adapted.sum()} of {len(after)}",
        "sharpness_begin": first["sharpness"],
        "sharpness_end": last["sharpness"],
        "resolved_by": ("P" if share < 0.5 else "H and P") if len(after) else None,
        "claim_holds": bool((grown & adapted).mean() > 0.5) if len(after) else None,
    }


_AFTERMATH = ("steps_above", "gradient_growth", "preconditioner_growth", "share_of_H")


def aftermath(window: pd.DataFrame, crossing: float, end: float) -> dict[str, float]:
    """Measure what follows a crossing of the threshold.

    Args:
        window: Measurements before and after it.
        crossing: The step at which λ₁(P⁻¹H) rises to the threshold.
        end: Where to stop looking, the next crossing.

    Returns:
        `steps_above`, the steps until λ₁(P⁻¹H) was measured below the threshold again, NaN for
        never; `gradient_growth`, the largest ‖∇f‖² after the crossing over the last one before it;
        `preconditioner_growth`, the largest rise of ‖P‖² from a low after the crossing; and
        `share_of_H`, the part that λ₁(H) has in the fall of λ₁(P⁻¹H) from its peak to its low: the
        ratio of the logarithms of both falls.
    """
    steps = window["step"]
    before = window[steps < crossing].iloc[-1]
    after = window[(steps >= crossing) & (steps < end)]
    below = after["step"][after["edge_ratio"] < 1]
    norms = after["preconditioner_norm_squared"]
    ratio = after["edge_ratio"]
    peak = ratio.idxmax()
    fall = [peak, ratio.loc[peak:].idxmin()]
    falls = np.log(after.loc[fall, ["edge_ratio", "sharpness"]]).diff().iloc[-1]
    numbers = (
        below.iloc[0] - crossing if len(below) else math.nan,
        after["gradient_norm_squared"].max() / before["gradient_norm_squared"],
        (norms / norms.cummin()).max(),
        falls["sharpness"] / falls["edge_ratio"] if len(below) else math.nan,
    )
    return dict(zip(_AFTERMATH, numbers, strict=True))


def _alignment(run: TrainingRun, at_edge: pd.DataFrame) -> dict[str, Any]:
    """The columns of Figure 18's table on the spikes after the run reached the edge."""
    measured = at_edge.dropna(subset=[WHOLE, PART])
    steps, whole = measured["step"].to_numpy(), measured[WHOLE].to_numpy()
    share = (measured[PART] / measured[WHOLE]).to_numpy()
    spiking = in_spikes(steps, whole)
    at_spikes = share[spiking]
    return {
        "edge_step": run.summary.edge_step,
        "num_eigenvalues": run.config["monitor"]["num_eigenvalues"],
        "spikes": num_spikes(steps[spiking]),
        "measurements_of_spikes": int(spiking.sum()),
        "share_at_spikes": _median(at_spikes),
        "share_elsewhere": _median(share[~spiking]),
        "claim_holds": bool(np.median(at_spikes) >= ALMOST_ALL) if len(at_spikes) else None,
    }


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan


FIGURES: Figures = {
    "fig09": (read_runs, draw_fig09),
    "fig18": (read_runs, draw_fig18),
}
