"""The curves of all trainings: a file for each while they are made, one table of all."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from tools.alarming.plan import Training, training

_DIGITS = 5
_Planned = TypeVar("_Planned")
# Beside the columns of the updates.
OF_TRAINING = ("training", "network", "optimizer", "batch", "warm_up", "seed")


def train(
    directory: Path,
    number: int,
    minutes: float | None,
    planned: Callable[[int], _Planned],
    run: Callable[[_Planned], pd.DataFrame],
) -> int:
    """Make the trainings that have no file yet.

    Args:
        directory: Where the files are, one for each training.
        number: Number of trainings in all.
        minutes: After so many no other is begun; None for no limit.
        planned: Function that returns the training of a number.
        run: Function that makes one.

    Returns:
        Number of trainings that are left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    left = [n for n in range(number) if not _path(directory, n).exists()]
    for count, n in enumerate(left):
        if minutes is not None and time.perf_counter() - began > 60.0 * minutes:
            return len(left) - count
        each = planned(n)
        now = time.perf_counter()
        table = run(each)
        beside = _path(directory, n).with_suffix(".part")
        table.to_csv(beside, index=False, float_format=f"%.{_DIGITS}g")
        beside.replace(_path(directory, n))
        seconds = time.perf_counter() - now
        print(f"{n}: {each}, {len(table)} updates, {seconds:.1f} s", flush=True)
    return 0


def pack(directory: Path, path: Path) -> None:
    """Write the files of a directory into one table."""
    tables = []
    for file in sorted(directory.glob("*.csv")):
        each = training(int(file.stem))
        facts = dataclasses.asdict(each) | {"training": each.number}
        table = pd.read_csv(file, dtype=str)
        for place, name in enumerate(OF_TRAINING):
            table.insert(place, name, facts[name])
        tables.append(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the time of writing: the same trainings give the same file.
    options = {"method": "gzip", "mtime": 0}
    pd.concat(tables).to_csv(path, index=False, compression=options)


def read(path: Path) -> list[tuple[Training, pd.DataFrame]]:
    """The trainings of a table with their updates."""
    table = pd.read_csv(path)
    return [
        (training(int(number)), updates.drop(columns=list(OF_TRAINING)).reset_index(drop=True))
        for number, updates in table.groupby("training", sort=True)
    ]


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:04}.csv"
