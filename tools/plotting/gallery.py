"""The curves of one training side by side: the loss, and the curvature with its threshold."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator


def _logarithmic(axes: Axes, values: pd.Series) -> None:
    """Make a logarithmic axis with two or more labels, written in decimals if they are short."""
    few = values.max() < 30 * values.min()
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    if few:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def draw(rows: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of a monitor: loss on the left, λ₁(P⁻¹H) and λ* on the right."""
    blue, orange, *_ = sns.color_palette("colorblind")
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(7.5, 2.6), layout="constrained")
        loss, curvature = figure.subplots(1, 2)
    loss.plot(rows["step"], rows["loss"], color=blue)
    loss.set_title(title, loc="left", fontsize=9)
    loss.set(xlabel="step", ylabel="training loss")
    _logarithmic(loss, rows["loss"])
    sharpness, threshold = rows["preconditioned_sharpness"], rows["stability_threshold"]
    curvature.plot(rows["step"], sharpness, color=blue, label="λ₁(P⁻¹H)")
    curvature.plot(rows["step"], threshold, color=orange, linestyle="--", label="threshold λ*")
    curvature.set(xlabel="step", ylabel="curvature")
    _logarithmic(curvature, pd.concat([sharpness, threshold]))
    curvature.legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.0
    )
    for axes in (loss, curvature):
        axes.grid(alpha=0.3)
    sns.despine(figure)
    return figure
