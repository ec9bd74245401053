"""The rules that are compared: a score after each update, from what is known by then.

A rule raises an alarm once its score exceeds a threshold. Where it has no score yet, it is -inf.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

# Updates that the loss spike rule takes the mean of, as `SpikeDetection` of Lightning does.
_WINDOW = 10
# Memory and least number of updates of the moving averages, as in ZClip but for short trainings.
_DECAY, _LEAST = 0.97, 10
# Standard deviations by which a loss has to exceed the mean before they add up.
_SLACK = 0.5
_NONE = -np.inf


def loss_spike(updates: pd.DataFrame) -> np.ndarray:
    """The loss over the mean of the ten losses before it."""
    before = updates["loss"].shift(1).rolling(_WINDOW).mean()
    return _filled(updates["loss"] / before)


def gradient_norm(updates: pd.DataFrame) -> np.ndarray:
    """The norm of the gradient over the median of all before it."""
    norm = updates["gradient_norm"]
    return _filled(norm / norm.shift(1).expanding(_LEAST).median())


def gradient_z_score(updates: pd.DataFrame) -> np.ndarray:
    """The norm of the gradient in standard deviations from its moving average."""
    return _filled(_standardised(updates["gradient_norm"]))


def loss_cusum(updates: pd.DataFrame) -> np.ndarray:
    """The cumulated sum of the loss's excess over its moving average, in standard deviations."""
    total, totals = 0.0, []
    for excess in _standardised(updates["loss"]).fillna(0.0):
        total = max(0.0, total + excess - _SLACK)
        totals.append(total)
    return np.array(totals)


def sharpness(updates: pd.DataFrame) -> np.ndarray:
    """λ₁(H) of the last row."""
    return _filled(updates["sharpness"].ffill())


def edge_ratio(updates: pd.DataFrame) -> np.ndarray:
    """The edge ratio of the last row."""
    return _filled(updates["edge_ratio"].ffill())


def correlation(updates: pd.DataFrame) -> np.ndarray:
    """The correlation of the last two updates, with the sign changed."""
    return _filled(-updates["update_correlation"])


RULES: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "loss over its running mean": loss_spike,
    "CUSUM of the loss": loss_cusum,
    "gradient norm over its median": gradient_norm,
    "z-score of the gradient norm": gradient_z_score,
    "correlation of successive updates": correlation,
    "sharpness alone": sharpness,
    "edge ratio alone": edge_ratio,
}


def _standardised(values: pd.Series) -> pd.Series:
    """Values less the moving average of those before them, over their moving deviation."""
    moving = values.shift(1).ewm(alpha=1.0 - _DECAY, min_periods=_LEAST)
    return (values - moving.mean()) / moving.std().clip(lower=1e-12)


def _filled(scores: pd.Series) -> np.ndarray:
    return scores.replace(np.inf, np.finfo(np.float64).max).fillna(_NONE).to_numpy(np.float64)
