"""Where a run reached the edge of stability and how close it stayed, from its rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

REACHED = 0.9
# Median ratios that count as the edge of stability: around 1 with heavy-ball momentum, and a little
# above it without momentum or with Nesterov's.
AROUND, ABOVE = (0.9, 1.15), (1.0, 1.5)
ABOVE_THE_EDGE = ("gradient_descent", "nesterov", "rmsprop", "adagrad", "nadam")
# Mean training loss below which a network has fitted its data.
_FITTED_CROSS_ENTROPY = 0.2
COLUMNS = (
    *("step", "loss", "preconditioned_sharpness", "sharpness"),
    *("stability_threshold", "edge_ratio"),
)


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
        num_steps_at_edge: Number of steps with an edge ratio of 0.9 or more. A measurement stands
            for the steps since the previous one.
    """

    num_steps: int
    threshold: float
    edge_step: int | None
    fit_step: int | None
    window: tuple[int, int] | None
    ratio: float
    ratio_to_end: float
    claim: tuple[float, float] = AROUND
    num_steps_at_edge: int = 0

    @property
    def share_at_edge(self) -> float:
        """`num_steps_at_edge` as a share of all steps; NaN without steps."""
        return self.num_steps_at_edge / self.num_steps if self.num_steps else math.nan

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


def claim(optimizer: str, settings: Mapping[str, Any] | None = None) -> tuple[float, float]:
    """Smallest and largest R that the paper claims for an optimizer (Figures 5 and 13).

    Args:
        optimizer: Name of the optimizer, of `keras_aeos.optimizers` or Keras.
        settings: Dictionary or None. Its arguments, for Keras' `SGD`, which is three methods.
    """
    name, settings = optimizer.lower(), settings or {}
    if name == "sgd":
        name = "nesterov" if settings.get("nesterov") else "heavy_ball"
        name = name if settings.get("momentum") else "gradient_descent"
    names = (other.replace("_", "") for other in ABOVE_THE_EDGE)
    return ABOVE if name.replace("_", "") in names else AROUND


def loss_kind(name: str) -> str | None:
    """The kind of loss that `edge_summary` tells apart, from the name that Keras gives a loss.

    >>> loss_kind("sparse_categorical_crossentropy"), loss_kind("mse"), loss_kind("hinge")
    ('cross_entropy', 'squared_error', None)
    """
    plain = name.lower().replace("_", "")
    if "crossentropy" in plain:
        return "cross_entropy"
    return "squared_error" if plain in ("mse", "meansquarederror", "squarederror") else None


def edge_summary(
    metrics: pd.DataFrame,
    loss: str | None,
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
        loss: "cross_entropy" or "squared_error"; None for another loss, with which no step counts
            as fitted.
        first_loss: Loss before the first update; that of the first row if None.
        claimed: Smallest and largest R that the paper claims.
    """
    if metrics.empty:
        return EdgeSummary(0, math.nan, None, None, None, math.nan, math.nan, claimed)
    if first_loss is None:
        first_loss = metrics["loss"].iloc[0]
    limits = {"cross_entropy": _FITTED_CROSS_ENTROPY, "squared_error": first_loss / 10}
    fitted = metrics["loss"] < limits.get(loss or "", -math.inf)
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
        num_steps_at_edge=int(at_edge["steps_before"][at_edge["edge_ratio"] >= REACHED].sum()),
    )


def _median_by_step(measured: pd.DataFrame) -> float:
    repeated = measured["edge_ratio"].repeat(measured["steps_before"].astype(int))
    return float(repeated.median())


def _first_step(metrics: pd.DataFrame, condition: "pd.Series[bool]") -> int | None:
    return int(metrics["step"][condition].iloc[0]) if condition.any() else None
