"""What a finished run shows: the edge ratio it held, and a picture of its curves."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from omegaconf import OmegaConf

from trainers import run_directory

REACHED = 0.9
COLUMNS = ("step", "loss", "preconditioned_sharpness", "stability_threshold", "edge_ratio")
# Ratios that count as being at the edge of stability.
CLAIM = (0.9, 1.15)


@dataclass(frozen=True)
class EdgeSummary:
    """Where a run reached the edge and how near it stayed.

    Attributes:
        threshold: Stability threshold at the end.
        ratio: R, the median edge ratio within the window; NaN without one.
        edge_step: First measured step with an edge ratio of 0.9 or more; None if there was none.
        window: First and last measured step of the window; None without one.
        num_steps: Last measured step.
    """

    threshold: float
    ratio: float
    edge_step: int | None
    window: tuple[int, int] | None
    num_steps: int

    @property
    def holds(self) -> bool:
        """Whether the run stayed at the edge."""
        return CLAIM[0] <= self.ratio <= CLAIM[1]

    def sentence(self) -> str:
        """The summary in words."""
        if self.num_steps == 0:
            return "nothing was measured: fewer steps than monitor.update_freq"
        if self.edge_step is None:
            return f"the edge was not reached in {self.num_steps} steps; run longer"
        if self.window is None:
            return f"the edge was reached at step {self.edge_step}, after the data were fitted"
        return (
            f"edge ratio {self.ratio:.2f} (median over steps {self.window[0]} to "
            f"{self.window[1]}; 1 is the edge of stability)"
        )


def edge_summary(metrics: pd.DataFrame, loss: str, first_loss: float | None = None) -> EdgeSummary:
    """Summarise a run's measurements.

    R is the median edge ratio from the first measurement of at least 0.9 until the network fits
    its data: cross-entropy below 0.2, squared error below a tenth of its first value. Later the
    curvature collapses, at the edge or not.

    Args:
        metrics: The rows of `metrics.csv`.
        loss: "cross_entropy" or "squared_error".
        first_loss: Loss before the first update; that of the first row if None.
    """
    if metrics.empty:
        return EdgeSummary(math.nan, math.nan, None, None, 0)
    steps, ratios = metrics["step"], metrics["edge_ratio"]
    thresholds = metrics["stability_threshold"].dropna()
    threshold = float(thresholds.iloc[-1]) if len(thresholds) else math.nan
    edge_step, window, ratio = None, None, math.nan

    at_edge = ratios >= REACHED
    if at_edge.any():
        edge_step = int(steps[at_edge].iloc[0])
        first = metrics["loss"].iloc[0] if first_loss is None else first_loss
        fitted = steps[metrics["loss"] < (0.2 if loss == "cross_entropy" else first / 10)]
        end = fitted.iloc[0] if len(fitted) else math.inf
        inside = (steps >= edge_step) & (steps < end) & ratios.notna()
        if inside.any():
            window = int(steps[inside].iloc[0]), int(steps[inside].iloc[-1])
            ratio = float(ratios[inside].median())
    return EdgeSummary(threshold, ratio, edge_step, window, int(steps.iloc[-1]))


def summarise(directory: Path) -> EdgeSummary:
    """Summarise the run in a directory."""
    loss = OmegaConf.load(directory / run_directory.CONFIG).loss
    first_loss = run_directory.read(directory).get("first_loss")
    return edge_summary(read_metrics(directory), loss, first_loss)


def read_metrics(directory: Path) -> pd.DataFrame:
    """Read `metrics.csv`; no rows where nothing was measured."""
    path = directory / run_directory.METRICS
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def draw_run(directory: Path) -> Path:
    """Draw `curves.png` of the run in a directory: loss above, preconditioned sharpness below."""
    metrics = read_metrics(directory)
    figure = mpl.figure.Figure(figsize=(6.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(metrics["step"], metrics["loss"], color="C0")
    above.set(ylabel="training loss", title=summarise(directory).sentence())
    above.title.set_fontsize("medium")
    below.plot(
        metrics["step"], metrics["preconditioned_sharpness"], color="C0", label="λ₁(P⁻¹H)"
    )
    below.plot(
        metrics["step"],
        metrics["stability_threshold"],
        color="C3",
        linestyle="--",
        label="stability threshold",
    )
    if (metrics["preconditioned_sharpness"] > 0).any():
        below.set_yscale("log")
    below.set(xlabel="step", ylabel="preconditioned sharpness")
    below.legend(loc="lower right")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    path = directory / run_directory.CURVES
    figure.savefig(path, dpi=150)
    return path
