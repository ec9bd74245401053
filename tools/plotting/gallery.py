"""The curves of one training side by side: the loss, and the curvature with its threshold."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


def draw(rows: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of a monitor: loss on the left, λ₁(P⁻¹H) and λ* on the right."""
    blue, orange = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[1]
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(7.0, 2.5), layout="constrained")
        loss, curvature = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=10)
    loss.plot(rows["step"], rows["loss"], color=blue)
    loss.set(yscale="log", xlabel="step", ylabel="training loss")
    curvature.plot(rows["step"], rows["preconditioned_sharpness"], color=blue, label="λ₁(P⁻¹H)")
    curvature.plot(
        rows["step"], rows["stability_threshold"], color=orange, linestyle="--", label="λ*"
    )
    curvature.set(yscale="log", xlabel="step", ylabel="preconditioned sharpness")
    curvature.legend(frameon=False, loc="lower right")
    for axes in (loss, curvature):
        axes.grid(alpha=0.3)
    sns.despine(figure)
    return figure
