"""The curves of all trainings in one table."""

import dataclasses
from pathlib import Path

import pandas as pd

from tools import planned
from tools.alarming.plan import Training, training

# Beside the columns of the updates.
OF_TRAINING = ("training", "network", "optimizer", "batch", "warm_up", "seed")


def pack(directory: Path, path: Path) -> None:
    """Write the files of a directory into one table, beside what is there."""
    tables = []
    for file in sorted(directory.glob("*.csv")):
        each = training(int(file.stem))
        facts = dataclasses.asdict(each) | {"training": each.number}
        table = pd.read_csv(file, dtype=str)
        for place, name in enumerate(OF_TRAINING):
            table.insert(place, name, facts[name])
        tables.append(table)
    planned.pack(pd.concat(tables), path)


def read(path: Path) -> list[tuple[Training, pd.DataFrame]]:
    """The trainings of a table with their updates."""
    table = pd.read_csv(path)
    return [
        (training(int(number)), updates.drop(columns=list(OF_TRAINING)).reset_index(drop=True))
        for number, updates in table.groupby("training", sort=True)
    ]
