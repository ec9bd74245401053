"""The summary of a finished run: its edge ratio, and a picture of its curves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from omegaconf import OmegaConf

from trainers import run_directory

REACHED = 0.9
# Median ratios that count as the edge of stability: around 1 with heavy-ball momentum, and a little
# above it without momentum or with Nesterov's.
AROUND, ABOVE = (0.9, 1.15), (1.0, 1.5)
ABOVE_THE_EDGE = ("gradient_descent", "nesterov", "rmsprop", "adagrad", "nadam")
COLUMNS = (
    *("step", "loss", "preconditioned_sharpness", "sharpness"),
    *("stability_threshold", "edge_ratio"),
)
SHARPNESS_LABEL = r"sharpness $\lambda_1(H)$"
PRECONDITIONED_LABEL = "preconditioned\nsharpness $\\lambda_1(P^{-1}H)$"


@dataclass(frozen=True)
class EdgeSummary:
    """Where a run reached the edge and how close it stayed.

    Attributes:
        num_steps: Last measured step; 0 if there was none.
        threshold: Stability threshold at the end.
        edge_step: First measured step with an edge ratio of 0.9 or more; None if there was none.
        fit_step: First measured step with the data fitted; None if there was none.
        window: First and last measured step from `edge_step` to before `fit_step`; None if empty.
        ratio: R, the median edge ratio within the window; NaN without one.
        ratio_to_end: Median edge ratio from `edge_step` to the end, fitted or not; NaN without one.
        claim: Smallest and largest R according to the paper.
    """

    num_steps: int
    threshold: float
    edge_step: int | None
    fit_step: int | None
    window: tuple[int, int] | None
    ratio: float
    ratio_to_end: float
    claim: tuple[float, float] = AROUND

    @property
    def holds(self) -> bool | None:
        """Whether R is within the claim; None without a window."""
        return self.claim[0] <= self.ratio <= self.claim[1] if self.window else None

    def sentence(self) -> str:
        """The summary in words."""
        if self.num_steps == 0:
            return "nothing was measured: fewer steps than monitor.update_freq"
        if self.edge_step is None:
            return f"the edge was not reached in {self.num_steps} steps"
        if self.window is None:
            return (
                f"the data were fitted at step {self.fit_step}, before the edge at step "
                f"{self.edge_step}; median edge ratio from there on {self.ratio_to_end:.2f}"
            )
        return (
            f"edge ratio R = {self.ratio:.2f}, the median over steps {self.window[0]} to "
            f"{self.window[1]}; 1 is the edge of stability"
        )


def claim(optimizer: str) -> tuple[float, float]:
    """Smallest and largest R that the paper claims for an optimizer (Figures 5 and 13)."""
    return ABOVE if optimizer in ABOVE_THE_EDGE else AROUND


def edge_summary(
    metrics: pd.DataFrame,
    loss: str,
    first_loss: float | None = None,
    claimed: tuple[float, float] = AROUND,
) -> EdgeSummary:
    """Summarise a run's measurements.

    R is the median edge ratio from the first measurement of at least 0.9 until the network fits
    its data: cross-entropy below 0.2, squared error below a tenth of its first value. With the
    cross-entropy the curvature collapses from then on, at the edge or not. A measurement is
    weighted by the number of steps since the previous one, so that densely measured steps don't
    outweigh the others.

    Args:
        metrics: The rows of `metrics.csv`.
        loss: "cross_entropy" or "squared_error".
        first_loss: Loss before the first update; that of the first row if None.
        claimed: Smallest and largest R that the paper claims.
    """
    if metrics.empty:
        return EdgeSummary(0, math.nan, None, None, None, math.nan, math.nan, claimed)
    if first_loss is None:
        first_loss = metrics["loss"].iloc[0]
    fitted = metrics["loss"] < (0.2 if loss == "cross_entropy" else first_loss / 10)
    edge_step = _first_step(metrics, metrics["edge_ratio"] >= REACHED)
    fit_step = _first_step(metrics, fitted)
    begin = math.inf if edge_step is None else edge_step
    end = math.inf if fit_step is None else fit_step
    steps = metrics["step"]
    measured = metrics.assign(steps_before=steps.diff().fillna(steps)).dropna(subset="edge_ratio")
    at_edge = measured[measured["step"] >= begin]
    inside = at_edge[at_edge["step"] < end]
    thresholds = metrics["stability_threshold"].dropna()
    return EdgeSummary(
        num_steps=int(metrics["step"].iloc[-1]),
        threshold=float(thresholds.iloc[-1]) if len(thresholds) else math.nan,
        edge_step=edge_step,
        fit_step=fit_step,
        window=(int(inside["step"].iloc[0]), int(inside["step"].iloc[-1])) if len(inside) else None,
        ratio=_median_by_step(inside),
        ratio_to_end=_median_by_step(at_edge),
        claim=claimed,
    )


def _median_by_step(measured: pd.DataFrame) -> float:
    repeated = measured["edge_ratio"].repeat(measured["steps_before"].astype(int))
    return float(repeated.median())


def _first_step(metrics: pd.DataFrame, condition: "pd.Series[bool]") -> int | None:
    return int(metrics["step"][condition].iloc[0]) if condition.any() else None


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
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(summarise(directory).sentence(), fontsize="small", wrap=True)
    draw_loss(above, [metrics], ["C0"])
    draw_preconditioned_sharpness(below, [metrics], ["C0"])
    below.set_xlabel("step")
    below.legend(handles=[*below.get_lines()[:1], dashes()], labels=["measured", "threshold"])
    for axes in (above, below):
        axes.grid(alpha=0.3)
    path = directory / run_directory.CURVES
    figure.savefig(path, dpi=150)
    return path


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
        axes.set_ylim(min(0.0, losses.min()), min(1.05 * losses.max(), 1.3 * losses.quantile(0.95)))


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
