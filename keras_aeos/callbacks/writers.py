"""The logs of a monitor: a CSV file and TensorBoard events, flushed at every row."""

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


class CsvWriter:
    """Appends rows to a CSV file and loses none of its old rows.

    A file with the same columns that ends before the first new step belongs to a run that is being
    resumed: it is continued. Any other file is kept under the next free name, ``metrics.1.csv``
    and so on.

    Args:
        path: The file; its directory is made if needed.
        columns: Names of the columns.
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str]) -> None:
        self._path = pathlib.Path(path)
        self._columns = list(columns)
        self._begun = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row, a dictionary of the columns; it is on the disk when this returns."""
        if not self._begun:
            self._begin(row["step"])
            self._begun = True
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def close(self) -> None:
        """Nothing to do: the file is open only while a row is written."""

    def _begin(self, step: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            if self._continues_at(step):
                return
            self._path.rename(_free_name(self._path))
        with self._path.open("w", newline="") as file:
            csv.DictWriter(file, self._columns).writeheader()

    def _continues_at(self, step: int) -> bool:
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        try:
            return reader.fieldnames == self._columns and int(rows[-1]["step"]) < step
        except (IndexError, TypeError, ValueError):
            return False


class TensorBoardWriter:
    """Writes every column as a scalar of its name.

    The preconditioned sharpness is written in the run ``measured`` and its threshold, under the
    same tag, in the run ``threshold``: TensorBoard then draws both on one chart, in two colours.

    Args:
        log_dir: Directory for the event files of both runs.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        self._log_dir = pathlib.Path(log_dir)
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row, a dictionary of numbers with its ``step``, and flush it to the disk."""
        self._write("measured", row["step"], row)
        threshold = {"preconditioned_sharpness": row["stability_threshold"]}
        self._write("threshold", row["step"], threshold)

    def close(self) -> None:
        """Close the event files; a later row opens new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _write(self, run: str, step: int, values: Mapping[str, Any]) -> None:
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self._log_dir / run))
        with self._writers[run].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, float(value))
        self._writers[run].flush()


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 1
    while (candidate := path.with_suffix(f".{number}{path.suffix}")).exists():
        number += 1
    return candidate
