"""The curves of runs, drawn with Matplotlib."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

SHARPNESS_LABEL = r"sharpness $\lambda_1(H)$"
PRECONDITIONED_LABEL = "preconditioned\nsharpness $\\lambda_1(P^{-1}H)$"


def draw_loss(axes: Axes, runs: list[pd.DataFrame], colours: list[Any]) -> None:
    """Draw the losses of runs; an initial spike or a divergence is cut off."""
    draw_curves(axes, runs, colours, "loss")
    axes.set_ylabel("training loss")
    losses = pd.concat(run["loss"] for run in runs)
    losses = losses[losses.abs() < math.inf]
    if losses.empty:
        return
    if 0 < losses.min() < losses.median() / 20:
        axes.set_yscale("log")
        axes.set_ylim(top=min(1.5 * losses.max(), 10 * losses.quantile(0.95)))
    else:
        bottom = min(0.0, losses.min())
        top = min(1.05 * losses.max(), 1.3 * losses.quantile(0.95))
        if top > bottom:  # not of losses that are all zero or negative
            axes.set_ylim(bottom, top)


def draw_preconditioned_sharpness(axes: Axes, runs: list[pd.DataFrame], colours: list[Any]) -> None:
    """Draw λ₁(P⁻¹H) of runs on a log axis, with each threshold dashed in its run's colour.

    The axis reaches a little above the highest threshold and at most two decades below the lowest.
    """
    draw_curves(axes, runs, colours, "preconditioned_sharpness")
    for run, colour in zip(runs, colours, strict=True):
        axes.plot(run["step"], run["stability_threshold"], color=colour, **_DASHED)
    axes.set_ylabel(PRECONDITIONED_LABEL)
    thresholds = pd.concat(run["stability_threshold"] for run in runs).dropna()
    values = pd.concat(run["preconditioned_sharpness"] for run in runs)
    values = values[(values > 0) & (values < math.inf)]
    if len(thresholds) and len(values):
        axes.set_yscale("log", nonpositive="mask")
        lowest = max(min(values.min(), thresholds.min()), thresholds.min() / 100)
        highest = min(max(values.max(), thresholds.max()), 4 * thresholds.max())
        axes.set_ylim(lowest / 1.3, highest * 1.3)


def draw_curves(axes: Axes, runs: list[pd.DataFrame], colours: list[Any], column: str) -> None:
    """Draw one column of runs against the step, with gaps at values that are not finite.

    A row that was measured without the column is passed over.
    """
    for run, colour in zip(runs, colours, strict=True):
        left_out = run[column].isna() & run["preconditioned_sharpness"].notna()
        measured = run[~left_out]
        values = measured[column].where(measured[column].abs() < math.inf)
        axes.plot(measured["step"], values, color=colour, linewidth=1.5)
    axes.set_xlim(left=0)


_DASHED: dict[str, Any] = {"linestyle": (0, (5, 2)), "linewidth": 1.1}


def dashes() -> Line2D:
    """The line that represents thresholds in a legend."""
    return Line2D([], [], color="0.3", **_DASHED)
