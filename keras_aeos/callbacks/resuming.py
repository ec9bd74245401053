"""What lets a monitor go on in a `fit` that is resumed, as if it had never stopped."""

import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import keras
import pandas as pd

from keras_aeos.callbacks import state
from keras_aeos.callbacks.quantities import DENSITY_COLUMNS, LAYER_COLUMNS, TABLES, Tables
from keras_aeos.callbacks.running import companions
from keras_aeos.callbacks.watched_fit import WatchedFit
from keras_aeos.curvature import replicas

Row = TypeVar("Row", bound=Mapping[str, Any])

_DIRECTORY = "state"
# Callbacks from whose files a training can be resumed; not all versions of Keras have all of them.
_CHECKPOINTS = tuple(
    getattr(keras.callbacks, name)
    for name in ("BackupAndRestore", "ModelCheckpoint", "OrbaxCheckpoint")
    if hasattr(keras.callbacks, name)
)
# Ends of epochs whose states are kept: a checkpoint may be that of the last one or, if the process
# ends before it is complete, of the one before.
_NUM_EPOCHS = 2


class Resumable(keras.callbacks.Callback):
    """The part of an `AEoSMonitor` that copies and saves its state and takes it up again.

    If `fit` has a callback that writes checkpoints, the state after each row is kept beside the
    logs, and a monitor that begins at a later update than the first takes it up by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        # The columns of the rows: at first the narrow ones; the wide ones without curvature.
        self.columns: list[str] = []
        self._narrow_columns: list[str] = []
        self._wide_columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        # The state for the next `fit`; that of which the vectors wait for the first measurement.
        self._loaded: state.State | None = None
        self._unmeasured: state.State | None = None
        self._states: StateFiles | None = None
        self._seconds_keeping = 0.0

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        """A monitor with the same arguments and rows, attached to no model; `data` is shared."""
        copy = type(self)(**self._arguments)
        copy._take(self.columns, self._rows, self._tables)
        return copy

    def __getstate__(self: Any) -> dict[str, Any]:
        """The arguments and the rows; what belongs to a model is left out."""
        return {
            "arguments": self._arguments,
            "rows": (self.columns, self._rows, self._tables),
        }

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        """Make the monitor of these arguments, with these rows."""
        type(self).__init__(self, **state["arguments"])
        self._take(*state["rows"])

    @property
    def history(self) -> pd.DataFrame:
        """The rows so far, a `pandas.DataFrame` with the columns of the class's table."""
        return pd.DataFrame(self._rows, columns=self.columns)

    @property
    def spectral_densities(self) -> pd.DataFrame:
        """The spectral densities so far, a `pandas.DataFrame`, one row per interval.

        The columns are ``step``, ``operator`` ("raw" or "preconditioned"), ``low`` and ``high``,
        the ends of the interval, the ``fraction`` of the eigenvalues in it and its standard
        ``error``.
        """
        return pd.DataFrame(self._tables["spectral_density"], columns=DENSITY_COLUMNS)

    @property
    def layers(self) -> pd.DataFrame:
        """The layers so far, a `pandas.DataFrame`, one row for each ``step`` and ``layer``.

        The columns are its ``share`` in the top eigenvector, of the quantity ``edge_layer``, and
        its ``layer_sharpness``, of the quantity of this name; NaN if it is not asked for.
        """
        return pd.DataFrame(self._tables["layers"], columns=LAYER_COLUMNS)

    def _add(self: Any, row: dict[str, Any], tables: Tables) -> dict[str, Any]:
        """Add a row, and return it with all columns. Without curvature it may bring more."""
        if not row.keys() <= set(self.columns):
            self.columns = self._wide_columns
            for earlier in self._rows:
                earlier |= dict.fromkeys(row.keys() - earlier.keys(), math.nan)
            self._logs.add_columns(self.columns)
        row = dict.fromkeys(self.columns, math.nan) | row
        self._rows.append(row)
        for name, lines in tables.items():
            self._tables[name] += lines
        return row

    def _take(self: Any, columns: list[str], rows: list[dict[str, Any]], tables: Tables) -> None:
        """Have these rows in place of those so far."""
        self.columns = columns
        self._logs.set_columns(columns)
        self._rows = list(rows)
        self._tables = {name: list(lines) for name, lines in tables.items()}

    def save(self, path: str | os.PathLike) -> None:
        """Write what the rows to come depend on, beside the model, to a ``.npz`` file.

        These are the rows, the examples gathered from `fit`, the vectors from which the next solve
        starts, and the schedule. Save the model and its optimizer at the same update.

        Args:
            path: Path of the file, written whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        state.of(self).write(pathlib.Path(path))

    def load(self, path: str | os.PathLike) -> None:
        """Go on where a monitor with the same arguments was saved, in the next `fit`.

        `history` has its rows at once. Rows of later updates than that at which the `fit` begins
        are left out, of the logs too: their updates are made again. Nothing is unpickled.

        Args:
            path: Path of a file by `save`.

        Raises:
            OSError: If it can't be read.
            ValueError: If it is damaged, or of a monitor with other columns.
        """
        try:
            self.go_on_with(state.read(pathlib.Path(path)))
        except ValueError as error:
            raise ValueError(
                "Expected a file that `AEoSMonitor.save` of a monitor with the same arguments has "
                f"written: {error}. Received: path={os.fspath(path)!r}"
            ) from error

    def go_on_with(self: Any, found: state.State) -> None:
        """Go on with a state in the next `fit`.

        Raises:
            ValueError: If it is of a monitor with other columns.
        """
        if not self._can_have(found):
            raise ValueError("its monitor has other `quantities` or `num_eigenvalues`")
        self._loaded = found
        self._take(found.facts["columns"], found.rows, found.tables)

    def _can_have(self, found: state.State) -> bool:
        """Whether a state is of a monitor with the same arguments."""
        return found.facts["columns"] in (self._narrow_columns, self._wide_columns)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the state that belongs to a checkpoint of this moment."""
        if self._states is not None:
            self._states.end_epoch()

    def _begin_keeping(self: Any) -> None:
        """Keep states from now on if they will be of use."""
        if self._states is None and any(isinstance(c, _CHECKPOINTS) for c in companions(self)):
            self._states = StateFiles(self.log_dir)

    def _resume(self: Any, fit: WatchedFit, step: int) -> None:
        """Go on with the state that was loaded or is kept, if there is one, after some updates.

        Rows that the logs have between the state and `step` are kept. Later ones are removed: their
        updates are made again.
        """
        found, self._loaded = self._loaded, None
        try:
            if found is None and self._states is not None and not self._rows:
                found = self._states.newest(step) if step else None
                self._states.forget_after(step if found else 0)
            if found is None or not self._can_have(found):
                return
            if not found.counts_batches:
                found = found.until(step)
            # Of several workers, one alone has the logs, and all have to begin alike.
            alone = not replicas.has_workers(self.model.distribute_strategy)
            if alone and not found.counts_batches:
                found.extend(*self._logs.rows(range(found.num_updates_covered + 1, step + 1)))
            state.restore(self, found, fit)
            self._unmeasured = found
            if fit.writes:
                self._logs.resume(self._rows, self._tables, max(step, found.step))
        except (KeyError, OSError, TypeError, ValueError) as error:
            self._warn_once(
                "The training goes on, but not all rows before it are kept: "
                f"{type(error).__name__}: {error}"
            )

    def _restore_vectors(self: Any, fit: WatchedFit) -> None:
        """Let the first measurement start from the vectors of the state."""
        if self._unmeasured is not None:
            state.restore_meter(self._unmeasured, self._meter, self.model, fit)
            self._unmeasured = None

    def _keep_state(self: Any) -> None:
        """Write the state after a row. The time that it takes counts as that of the next row."""
        if self._states is None:
            return
        began = time.perf_counter()
        try:
            self._states.keep(state.of(self, complete=False))  # the logs have the rows
        except (OSError, ValueError) as error:
            self._warn_once(
                f"The monitor could not keep its state: {error}. Training goes on. After a resumed "
                "training begins, the first solves take longer."
            )
        self._seconds_keeping = time.perf_counter() - began


def of_one_model(rows: Sequence[Row]) -> list[Row]:
    """The last rows with rising steps: those before them are of another model."""
    begin = len(rows) - 1
    while begin > 0 and rows[begin - 1]["step"] < rows[begin]["step"]:
        begin -= 1
    return list(rows[max(begin, 0) :])


class StateFiles:
    """Files ``log_dir/state/STEP.npz``: the states after the rows of some steps.

    Those of the last row and of the last row before each of the last two ends of epochs are kept.
    A checkpoint is written independently of them, before or after them, and the process may end in
    between. Whichever of the last checkpoints is restored, its state is among them.

    Args:
        log_dir: The directory of the logs.
    """

    def __init__(self, log_dir: pathlib.Path) -> None:
        self._directory = log_dir / _DIRECTORY
        self._last: pathlib.Path | None = None
        self._ends: list[pathlib.Path] = []

    def newest(self, step: int) -> state.State | None:
        """The newest state of at most a number of updates; None without a readable one."""
        for number, path in sorted(self._numbered().items(), reverse=True):
            if number > step:
                continue
            try:
                found = state.read(path)
            except (OSError, ValueError):
                continue
            self._last = path
            self._ends = [path]
            return found
        return None

    def forget_after(self, step: int) -> None:
        """Remove the states of later updates.

        Raises:
            OSError: If one can't be removed.
        """
        for number, path in self._numbered().items():
            if number > step:
                path.unlink(missing_ok=True)

    def keep(self, present: state.State) -> None:
        """Write the state after a row, and remove one that is no longer needed.

        Raises:
            OSError: If it can't be written. The others stay.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{present.step}.npz"
        present.write(path)
        self._last = path
        for other in self._numbered().values():
            if other != path and other not in self._ends:
                other.unlink(missing_ok=True)

    def end_epoch(self) -> None:
        """Keep the last state until two more epochs have ended."""
        if self._last is not None:
            self._ends = [*self._ends, self._last][-_NUM_EPOCHS:]

    def _numbered(self) -> dict[int, pathlib.Path]:
        """The files by their numbers of updates."""
        paths = self._directory.glob("*.npz")
        return {int(p.stem): p for p in paths if p.stem.isascii() and p.stem.isdigit()}
