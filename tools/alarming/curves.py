"""The curves of all trainings in one table."""

from pathlib import Path

import pandas as pd

from tools.alarming.plan import Training, training

# Beside the columns of the updates.
OF_TRAINING = ("network", "optimizer", "batch", "warm_up", "seed")
_LEFT_OUT = ("update_norm", "gradient_norm_squared", "num_hvps")


def lines(number: int, updates: pd.DataFrame) -> pd.DataFrame:
    """The lines of a training in the table: its updates, without what is not judged."""
    each = training(number)
    updates = updates.drop(columns=list(_LEFT_OUT), errors="ignore")
    if "update_seconds" in updates:  # beside the seconds of rows
        updates["update_seconds"] = updates["update_seconds"].where(updates["seconds"].notna())
    for place, name in enumerate(OF_TRAINING):
        updates.insert(place, name, getattr(each, name))
    return updates


def read(path: Path) -> list[tuple[Training, pd.DataFrame]]:
    """The trainings of a table with their updates."""
    table = pd.read_csv(path)
    return [
        (
            training(int(number)),
            updates.drop(columns=["training", *OF_TRAINING]).reset_index(drop=True),
        )
        for number, updates in table.groupby("training", sort=True)
    ]
