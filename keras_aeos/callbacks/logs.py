"""The logs of a monitor: its directory, and the files in it."""

import contextlib
import datetime
import itertools
import os
import pathlib
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from keras_aeos.callbacks import columns as columns_of_row
from keras_aeos.callbacks import writers
from keras_aeos.callbacks.claim import Claim, Taken
from keras_aeos.callbacks.quantities import DENSITY_COLUMNS, LAYER_COLUMNS

_METRICS = "metrics.csv"
_DENSITIES = "spectral_density.csv"
_LAYERS = "layers.csv"
_MEASURED = "tensorboard/measured"
_THRESHOLD = "tensorboard/threshold"
# With a single slash too: `pathlib.Path` merges two. One letter is a drive.
_URL = re.compile(r"[A-Za-z][\w+.-]+:/")


class Logs:
    """Writes rows to CSV files and TensorBoard events, and never ends the training.

    ``metrics.csv`` has a line and the run ``tensorboard/measured`` an event with every column for
    each row. The threshold is written, under the tag of the preconditioned sharpness, in the run
    ``tensorboard/threshold``: TensorBoard then draws both on one chart, in two colors.
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
        self._arguments = (log_dir, list(columns))
        self._directory: pathlib.Path | None = None
        self._claim: Claim | None = None
        self._in_use: Callable[[], bool] | None = None
        self._files = {
            _METRICS: writers.csv_file(columns),
            _DENSITIES: writers.csv_file(DENSITY_COLUMNS),
            _LAYERS: writers.csv_file(LAYER_COLUMNS),
            _MEASURED: writers.event_file(columns_of_row.measured),
            _THRESHOLD: writers.event_file(
                lambda row: {"preconditioned_sharpness": row["stability_threshold"]}
            ),
        }
        self._events = ""
        self._opened = False
        self._fresh = False
        self._warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    @property
    def directory(self) -> pathlib.Path | None:
        """The directory, an absolute path once training has begun; None if not yet chosen."""
        if self._directory is None and self._arguments[0] is not None:
            return pathlib.Path(self._arguments[0])
        return self._directory

    def begin(self, fresh: bool = False, in_use: Callable[[], bool] | None = None) -> None:
        """Claim the directory before training.

        Args:
            fresh: Boolean. Whether the rows to come are those of another model or optimizer than
                the rows so far. False by default.
            in_use: Function that says whether the training still runs, for logs that ask for the
                same directory; None (default) for until `close`.

        Raises:
            ValueError: If the directory can't be made or written to.
        """
        self._in_use = in_use
        self._warned = True  # `_drop_waiting` says what fails here.
        if fresh and self._written:
            self._flush()
            self._drop_waiting()
            self._fresh = True
        self._warned = self._opened = False
        self._claim_directory()

    def set_columns(self, columns: Sequence[str]) -> None:
        """Change the columns of a row, before the first one."""
        self._arguments = (self._arguments[0], list(columns))
        self._files[_METRICS] = writers.csv_file(columns)

    def write(
        self,
        row: writers.Row,
        densities: Iterable[writers.Row] = (),
        layers: Iterable[writers.Row] = (),
    ) -> None:
        """Write a row, its densities and its layers; if that fails, warn once and keep them.

        Args:
            row: Dictionary of the columns.
            densities: Dictionaries of the columns of ``spectral_density.csv``.
            layers: Dictionaries of the columns of ``layers.csv``.
        """
        for name in (_METRICS, _MEASURED, _THRESHOLD):
            self._files[name].add(row)
        for density in densities:
            self._files[_DENSITIES].add(density)
        for layer in layers:
            self._files[_LAYERS].add(layer)
        self._flush()

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
                (_METRICS, self._arguments[1]),
                (_DENSITIES, DENSITY_COLUMNS),
                (_LAYERS, LAYER_COLUMNS),
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
        log_dir = self._arguments[0]
        try:
            wanted, candidates = self._candidates()
            self._claim = _first_free(candidates, self._in_use)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                "`log_dir` must be a local directory in which files can be written. "
                f"{error}. To fix this, name another directory. Received: log_dir={log_dir!r}"
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
        log_dir = self._arguments[0]
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


def _now() -> str:
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _numbered(path: pathlib.Path, number: int) -> pathlib.Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
