"""Trainings of a plan, made one after the other and judged: alarms, warmups and batch_edges.

A plan gives every training a number. Each is a CSV file of its updates, named after it, until it is
packed into the table of all. Those that are there are left out, so that a command can be ended and
called again, on another machine too.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd

from trainers.errors import UserError

_DIGITS = 5
_Planned = TypeVar("_Planned")


def command(
    name: str,
    description: str | None,
    number: int,
    runs: Path,
    train: Callable[[Path, int, float | None], int],
    judge: Callable[[Path], None],
    others: Mapping[str, Callable[[], None]] | None = None,
) -> None:
    """Do what the command line of a program names.

    Args:
        name: Name of the program.
        description: What it says of itself.
        number: Number of trainings of its plan.
        runs: Where their files are by default.
        train: Function that makes so many of them in a directory, within so many minutes, and
            returns how many are left.
        judge: Function that judges those of a directory.
        others: Functions of further commands, by name.
    """
    others = others or {}
    parser = argparse.ArgumentParser(
        prog=f"python tools/{name}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("train", "judge", *others))
    parser.add_argument("--minutes", type=float, help="time budget; default: none")
    parser.add_argument(
        "--trainings",
        type=int,
        default=number,
        help="number of trainings, the first ones of the plan; default: %(default)s",
    )
    parser.add_argument("--runs", type=Path, default=runs, help="where the files of trainings are")
    arguments = parser.parse_args()
    if arguments.command in others:
        others[arguments.command]()
        return
    if arguments.command == "judge":
        judge(arguments.runs)
        return
    try:
        left = train(arguments.runs, arguments.trainings, arguments.minutes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{left} trainings are left for the next call")


def train(
    directory: Path,
    packed: Path,
    number: int,
    minutes: float | None,
    planned: Callable[[int], _Planned],
    run: Callable[[_Planned], pd.DataFrame],
) -> int:
    """Make the trainings that have no file yet and are not packed.

    Args:
        directory: Where the files are, one for each training.
        packed: The table of `pack`, which need not be there.
        number: Number of trainings in all.
        minutes: After so many no other is begun; None for no limit.
        planned: Function that returns the training of a number.
        run: Function that makes one.

    Returns:
        Number of trainings that are left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    made = set(pd.read_csv(packed, usecols=["training"])["training"]) if packed.exists() else set()
    left = [n for n in range(number) if n not in made and not _path(directory, n).exists()]
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


def pack(directory: Path, path: Path, lines: Callable[[int, pd.DataFrame], pd.DataFrame]) -> None:
    """Write the trainings of a directory into a table, in place of those of the same number.

    Args:
        directory: Where the files are; nothing is written if it has none.
        path: A packed CSV file, ``*.csv.xz``. The same trainings give the same bytes.
        lines: Function that turns the number and updates of a training into its lines.
    """
    files = sorted(directory.glob("*.csv"))
    if not files:
        return
    numbers = [int(file.stem) for file in files]
    parts = [lines(n, pd.read_csv(file)) for n, file in zip(numbers, files, strict=True)]
    for n, part in zip(numbers, parts, strict=True):
        part.insert(0, "training", n)
    text = pd.concat(parts).to_csv(index=False, float_format=f"%.{_DIGITS}g")
    table = _read(io.StringIO(text))
    if path.exists():
        stored = _read(path)
        others = stored[~stored["training"].isin(table["training"])]
        table = pd.concat([others, table]).sort_values("training", key=_numbers, kind="stable")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def _read(source: Path | io.StringIO) -> pd.DataFrame:
    """A table as it is written, digit for digit."""
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _numbers(column: "pd.Series[str]") -> "pd.Series[int]":
    return column.astype(int)


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:04}.csv"
