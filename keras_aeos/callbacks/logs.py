"""The logs of a monitor: its directory, and the files in it."""

import contextlib
import datetime
import importlib.util
import itertools
import math
import os
import pathlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from keras_aeos.callbacks import cut_back, tensorboard, writers
from keras_aeos.callbacks.card import Card
from keras_aeos.callbacks.claim import Claim, Taken
from keras_aeos.callbacks.quantities import TABLES, Tables
from keras_aeos.callbacks.running import weakly

_METRICS = "metrics.csv"
_MEASURED = "tensorboard/measured"
_THRESHOLD = "tensorboard/threshold"
_SUMMARY = "tensorboard/summary"
# A picture takes a second or two. A shorter training is not made longer by it.
_SECONDS_FOR_PICTURE = 30.0
# With a single slash too: `pathlib.Path` merges two. One letter is a drive.
_URL = re.compile(r"[A-Za-z][\w+.-]+:/")


class Logs:
    """Writes rows to CSV files and TensorBoard events, and never ends the training.

    ``metrics.csv`` has a line and the run ``tensorboard/measured`` an event for each row. What a
    curve is compared with is in the run ``tensorboard/threshold`` under the curve's tag: λ*, 1 and
    η. TensorBoard then draws both on one chart, in two colors.
    ``tensorboard/summary`` has the hyperparameters and results of each training that has ended.
    ``spectral_density.csv`` has a line for each interval of a density, ``layers.csv`` one for each
    layer of a row.

    From `begin` to `close` the directory belongs to these logs alone. A row is on the disk when
    `write` returns. If it can't be written, it waits in memory for the next one.

    Files that are in the directory at the first row are continued if they belong to a run that is
    being resumed: they have the same columns and end before the row, or they are these logs' own
    and nobody else has written to them. Otherwise all are kept under the next free number,
    ``metrics.1.csv``, ``tensorboard/measured.1`` and so on.

    Copies and pickles are new logs with the same arguments.

    Args:
        log_dir: Path or None. The directory; None for ``logs/aeos/<time>``. If it is in use, or
            for None exists, a number is added to its name.
        columns: Names of the columns of a row.
    """

    def __init__(self, log_dir: str | os.PathLike | None, columns: Sequence[str]) -> None:
        self._log_dir = log_dir
        self._columns = list(columns)  # the encoder of `metrics.csv` has this list too
        self._directory: pathlib.Path | None = None
        self._claim: Claim | None = None
        self._in_use: Callable[[], bool] | None = None
        self._files = {
            _METRICS: writers.csv_file(self._columns),
            **{_file_of(name): writers.csv_file(of_table) for name, of_table in TABLES.items()},
            _MEASURED: writers.event_file(
                lambda entry: tensorboard.measured(entry["row"], entry["tables"]),
                weakly(self._text_card),
            ),
            _THRESHOLD: writers.event_file(tensorboard.lines),
            _SUMMARY: writers.event_file(lambda entry: entry["summary"]),
        }
        self._describe: Callable[[], Card | None] = lambda: None
        self._events = ""
        self._opened = self._resumed = False
        self._fresh = False
        self._warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._log_dir, self._columns)

    @property
    def directory(self) -> pathlib.Path | None:
        """The directory, an absolute path once training has begun; None if not yet chosen."""
        if self._directory is None and self._log_dir is not None:
            return pathlib.Path(self._log_dir)
        return self._directory

    def begin(
        self,
        fresh: bool = False,
        in_use: Callable[[], bool] | None = None,
        describe: Callable[[], Card | None] = lambda: None,
    ) -> None:
        """Claim the directory before training.

        Args:
            fresh: Boolean. Whether the rows to come are those of another model or optimizer than
                the rows so far. False by default.
            in_use: Function that says whether the training still runs, for logs that ask for the
                same directory; None (default) for until `close`.
            describe: Function that returns the `Card` of the training, called with the first row
                and at the end. By default it returns None: there is no card.

        Raises:
            ValueError: If the directory can't be made or written to.
        """
        self._in_use, self._describe = in_use, describe
        self._warned = True  # `_drop_waiting` says what fails here.
        if fresh and self._written:
            self._flush()
            self._drop_waiting()
            self._fresh, self._resumed = True, False
        self._warned = self._opened = False
        self._claim_directory()

    def set_columns(self, columns: Sequence[str]) -> None:
        """Change the columns of the rows to come."""
        self._columns[:] = columns

    def add_columns(self, columns: Sequence[str]) -> None:
        """Change the columns to more of them, NaN in the rows that are written."""
        before = list(self._columns)
        self.set_columns(columns)
        if self._resumed or self._files[_METRICS].size is not None:
            self._attempt("its new columns", self._rewrite, before)

    def _rewrite(self, before: Sequence[str]) -> None:
        """Write ``metrics.csv`` anew, which has other columns."""
        path = self._claim_directory().directory / _METRICS
        empty = dict.fromkeys(self._columns, math.nan)
        rows = [empty | row for row in cut_back.read_rows(path, before)]
        cut_back.write_csv(path, self._columns, rows)
        self._begin_again()

    def write(self, row: writers.Row, tables: Tables) -> None:
        """Write a row and what it has in the tables; if that fails, warn once and keep them.

        Args:
            row: Dictionary of the columns.
            tables: For names of `TABLES`, dictionaries of their columns.
        """
        for name in (_METRICS, _THRESHOLD):
            self._files[name].add(row)
        self._files[_MEASURED].add({"step": row["step"], "row": row, "tables": tables})
        for name, lines in tables.items():
            for line in lines:
                self._files[_file_of(name)].add(line)
        self._flush()

    def resume(self, rows: Sequence[writers.Row], tables: Tables, step: int) -> None:
        """Let the files hold the rows up to a step from which training goes on, and no later ones.

        Files of another training are kept under the next free number.

        Raises:
            OSError: If the files can't be changed.
        """
        directory, columns = self._claim_directory().directory, self._columns
        path = directory / _METRICS
        if path.exists() and cut_back.has_other_rows(path, columns, rows, step):
            self._set_aside(directory)
        cut_back.write_csv(path, columns, rows)
        for name, lines in tables.items():
            if lines or (directory / _file_of(name)).exists():
                cut_back.write_csv(directory / _file_of(name), TABLES[name], lines)
        for run in (_MEASURED, _THRESHOLD):
            cut_back.cut_events(directory / run, step)
        # It is written at the end, which has not come yet.
        cut_back.cut_events(directory / _SUMMARY, -1)
        self._begin_again()
        self._resumed = True

    def _begin_again(self) -> None:
        """Look at the files before the next row as if they were those of another process."""
        self._opened = self._fresh = False
        for file in self._files.values():
            file.size = None

    def rows(self, steps: range) -> tuple[list[dict[str, Any]], Tables]:
        """The rows of some steps in the files, and what they have in the tables.

        Raises:
            OSError: If the files can't be read.
        """
        directory = self._claim_directory().directory

        def read(name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
            path = directory / name
            rows = cut_back.read_rows(path, columns) if path.exists() else []
            return [row for row in rows if row["step"] in steps]

        tables = {name: read(_file_of(name), columns) for name, columns in TABLES.items()}
        return read(_METRICS, self._columns), tables

    def finish(
        self, metrics: pd.DataFrame, seconds: float, first_loss: float | None = None
    ) -> None:
        """Write the hyperparameters and results of a training that has ended.

        Args:
            metrics: Its rows.
            seconds: Wall time of the training. A long one gets a picture, if Matplotlib is there.
            first_loss: Loss before the first update; None (default) if it is not known.
        """
        if len(metrics):
            self._attempt("its summary", self._add_summary, metrics, seconds, first_loss)
            self._flush()

    def _add_summary(self, metrics: pd.DataFrame, seconds: float, first_loss: float | None) -> None:
        card, directory = self._describe(), self.directory
        if card is None or directory is None:
            return
        drawn = seconds >= _SECONDS_FOR_PICTURE and importlib.util.find_spec("matplotlib")
        summary = tensorboard.final(
            tensorboard.trial(directory, card.hyperparameters(metrics)),
            card.hyperparameters(metrics),
            card.results(metrics, first_loss),
            _picture(metrics, directory.name) if drawn else None,
        )
        self._files[_SUMMARY].add({"step": int(metrics["step"].iloc[-1]), "summary": summary})

    def _text_card(self) -> Any:
        card = self._attempt("its card", self._describe)
        return None if card is None else tensorboard.card(card.markdown())

    def close(self) -> None:
        """Write what waits, and release the directory. A later `write` claims it again."""
        self._flush()
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._opened = False
        if self._directory is not None and not self._directory.exists():
            self._directory = None

    @property
    def _written(self) -> bool:
        return any(file.size is not None for file in self._files.values())

    def _flush(self) -> None:
        """Write what waits. Each file is tried, whatever happens to the others."""
        if not any(file.waiting for file in self._files.values()):
            return
        files = self._attempt("its logs", self._open)
        for path, file in files or ():
            self._attempt(f"to {path}", file.flush, path)

    def _attempt(self, what: str, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except Exception as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"The monitor could not write {what}: {type(error).__name__}: {error}. "
                    "Training goes on. The rows are in `history`, and will be written as soon as "
                    "it is possible, at the latest at the end of training.",
                    stacklevel=2,
                )
        return None

    def _open(self) -> list[tuple[pathlib.Path, writers.RowFile]]:
        """The files, each with its path, in a directory that is claimed, ready for rows."""
        directory = self._claim_directory().directory
        if not self._opened:
            if not self._continues(directory):
                self._set_aside(directory)
            if self._files[_METRICS].size is None:
                self._events = f"events.out.tfevents.{time.time():010.0f}.{os.getpid()}"
            self._opened, self._fresh = True, False
        files = [
            (directory / (name if name.endswith(".csv") else f"{name}/{self._events}"), file)
            for name, file in self._files.items()
        ]
        removed = [(path, file) for path, file in files if file.was_removed(path)]
        for _, file in removed:
            file.size = None
        if removed:
            warnings.warn(
                "Logs were removed or emptied while the model trained, and begin again with the "
                f"next row; earlier rows are in the monitor's `history`: {removed[0][0]}",
                stacklevel=2,
            )
        return files

    def _continues(self, directory: pathlib.Path) -> bool:
        """Whether the files of a directory belong to the run of the rows that wait."""
        path, metrics = directory / _METRICS, self._files[_METRICS]
        if self._fresh or not path.exists():
            return False
        if metrics.size is not None:
            return path.stat().st_size == metrics.size
        return all(
            writers.resume_csv(directory / name, columns, self._files[_METRICS].next_step)
            for name, columns in (
                (_METRICS, self._columns),
                *((_file_of(table), of_table) for table, of_table in TABLES.items()),
            )
            if (directory / name).exists()
        )

    def _set_aside(self, directory: pathlib.Path) -> None:
        """Keep the files of a directory under the next free number."""
        names = list(self._files)
        number = next(
            number
            for number in itertools.count(1)
            if not any(_numbered(directory / name, number).exists() for name in names)
        )
        for name in names:
            if (directory / name).exists():
                (directory / name).rename(_numbered(directory / name, number))
            self._files[name].size = None
        self._resumed = False

    def _drop_waiting(self) -> None:
        """Leave rows that can't be written to the files of the earlier model out of the logs."""
        count = self._files[_METRICS].waiting
        for file in self._files.values():
            file.forget()
        if count:
            warnings.warn(
                "Rows of the earlier model could not be written and are missing in the logs "
                f"(number of rows: {count}). They are in the monitor's `history`.",
                stacklevel=2,
            )

    def _claim_directory(self) -> Claim:
        """The claim of the directory, made anew if there is none or the directory was removed."""
        if self._claim is not None and self._claim.holds():
            return self._claim
        if self._claim is not None:
            self._claim.release()
        try:
            wanted, candidates = self._candidates()
            self._claim = _first_free(candidates, self._in_use)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                "`log_dir` must be a local directory in which files can be written. "
                f"{error}. To fix this, name another directory. Received: log_dir={self._log_dir!r}"
            ) from error
        if self._claim.directory != self._directory:
            self._directory = self._claim.directory
            self._opened = False
            if wanted not in (None, self._directory):
                warnings.warn(
                    f"The directory {wanted} is in use by another monitor. The logs of this one "
                    f"are in {self._directory}.",
                    stacklevel=2,
                )
        return self._claim

    def _candidates(self) -> tuple[pathlib.Path | None, Iterator[tuple[pathlib.Path, bool]]]:
        """The directory that is expected, if any, and those to try, with whether each is new."""
        log_dir = self._log_dir
        if log_dir is None:
            base = pathlib.Path("logs", "aeos", _now()).absolute()
        elif _URL.match(os.fspath(log_dir)):
            raise ValueError("This path is a URL")
        else:
            base = pathlib.Path(log_dir).expanduser().absolute()
        # Logs that had to make way before stay where their first rows are.
        wanted = base if self._directory is None and log_dir is not None else self._directory
        first = (base, True) if wanted is None else (wanted, False)
        others = ((base.with_name(f"{base.name}-{n}"), True) for n in itertools.count(2))
        return wanted, itertools.chain([first], others)


def _first_free(
    candidates: Iterator[tuple[pathlib.Path, bool]], in_use: Callable[[], bool] | None
) -> Claim:
    while True:
        directory, new = next(candidates)
        with contextlib.suppress(Taken):
            return Claim(directory, new, in_use)


def _picture(metrics: pd.DataFrame, title: str) -> bytes:
    from keras_aeos.summaries import picture  # Matplotlib is optional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Matplotlib, which are no concern of the training
        return picture.png(picture.draw(metrics, title))


def _file_of(table: str) -> str:
    return f"{table}.csv"


def _now() -> str:
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _numbered(path: pathlib.Path, number: int) -> pathlib.Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
