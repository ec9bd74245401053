"""What comes of the warm-ups: against the best linear one, against none, and where they fail."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tools.alarming.events import WINDOW
from tools.warming.plan import CURVATURE, GI_ADAM, LINEAR, TARGETS, training

_OF_TRAINING = ("task", "optimizer", "seed", "target", "warm_up")
_AT_END = (
    *("first_loss", "final_loss", "test_loss", "test_accuracy"),
    *("others", "num_measured", "seconds"),
)
# A training survives if its loss ends below this part of the first one.
SURVIVED = 0.8
# Updates are wasted whose level of the loss is above the smallest one before by this part of the
# first loss.
_ABOVE = 0.05
# Smaller losses count as this one: all examples are learnt.
FLOOR = 1e-4
# Ways to warm up, each with the shares or names that belong to it.
BEST, NONE = "linear, the best", "none"
WAYS: dict[str, tuple[float | str, ...]] = {
    CURVATURE: (CURVATURE,),
    BEST: LINEAR,
    NONE: (0.0,),
    GI_ADAM: (GI_ADAM,),
}


def line(number: int, updates: pd.DataFrame) -> pd.DataFrame:
    """The line of a training in the table."""
    each, losses = training(number), updates["loss"].to_numpy()
    facts = {name: getattr(each, name) for name in _OF_TRAINING}
    facts |= {name: updates[name].iloc[-1] for name in _AT_END}
    facts |= {"num_updates": len(updates), "num_wasted": wasted(losses)}
    return pd.DataFrame([facts])


def wasted(losses: np.ndarray) -> int:
    """Number of updates that go over ground already won.

    The level at an update is the mean of the losses of `WINDOW` updates. An update is wasted if
    its level is above the smallest one before by a twentieth of the first loss, or not finite.
    """
    levels = pd.Series(losses).rolling(WINDOW).mean().to_numpy()[WINDOW - 1 :]
    levels = np.where(np.isfinite(levels), levels, np.inf)
    if not len(levels):
        return 0
    lowest = np.minimum.accumulate(levels)
    return int(np.sum(levels[1:] > lowest[:-1] + _ABOVE * losses[0]))


def read(path: Path) -> pd.DataFrame:
    """The trainings of whole blocks of a table: of a task, an optimizer and a seed."""
    table = pd.read_csv(path)
    table["warm_up"] = [w if w in (CURVATURE, GI_ADAM) else float(w) for w in table["warm_up"]]
    whole = table.groupby(["task", "optimizer", "seed"])["training"].transform("size")
    table = table[whole == len(TARGETS) * sum(map(len, (LINEAR, (CURVATURE, GI_ADAM))))]
    lost = ~(table["final_loss"] < SURVIVED * table["first_loss"])
    return table.assign(survived=~lost)


def at_targets(table: pd.DataFrame, way: str, column: str = "final_loss") -> pd.Series:
    """Mean over the seeds at each target, of the warm-up with the smallest mean final loss.

    With several linear warm-ups it is the best one at each target: tuned. A loss that is not finite
    counts as the first one, one below `FLOOR` as that.

    Args:
        table: Trainings of one task and optimizer.
        way: One of `WAYS`.
        column: What to average.
    """
    own = table[table["warm_up"].isin(WAYS[way])]
    finite = np.isfinite(own["final_loss"])
    own = own.assign(
        final_loss=own["final_loss"].where(finite, own["first_loss"]).clip(FLOOR),
        test_accuracy=own["test_accuracy"].where(finite, 0.0),
    )
    means = own.groupby(["target", "warm_up"])[["final_loss", "test_accuracy", "num_wasted"]].mean()
    best = means["final_loss"].groupby("target").idxmin()
    return pd.Series(means.loc[best, column].to_numpy(), index=best.index)


def boundary(table: pd.DataFrame, warm_ups: Sequence[float | str]) -> float:
    """The highest target up to which all seeds survive, with one of the warm-ups; 0 for none."""
    highest = 0.0
    for warm_up in warm_ups:
        own = table[table["warm_up"] == warm_up].groupby("target")["survived"].all()
        for target, survived in own.sort_index().items():
            if not survived:
                break
            highest = max(highest, float(target))
    return highest


def groups(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Task, optimizer and trainings, in the order of the plan."""
    found = table.sort_values("training").groupby(["optimizer", "task"], sort=False)
    return [(task, optimizer, part) for (optimizer, task), part in found]
