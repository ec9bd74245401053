"""The curves of all trainings in one table."""

from pathlib import Path

import pandas as pd

from tools import planned
from tools.alarming.plan import Training, training

# Beside the columns of the updates.
OF_TRAINING = ("network", "optimizer", "batch", "warm_up", "seed")


def pack(directory: Path, path: Path) -> None:
    """Write the files of a directory into one table, beside what is there."""
    planned.pack(directory, path, _lines)


def _lines(number: int, updates: pd.DataFrame) -> pd.DataFrame:
    each = training(number)
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
