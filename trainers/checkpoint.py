"""Checkpoints of a run: all that determines its further course, in one file.

A checkpoint is a list of numbers: the variables of the model, those of its random generators among
them, and of the optimizer, and the state of the monitor and of the other callbacks. The position in
the data is the number of updates: data sets are made again from the seed, and go on from there. It
is not written by `tf.train.Checkpoint` or `save_weights`: the first writes several files, which are
complete one after another, and the second leaves out random generators. One file that takes its
place when it is complete on the disk is exact and belongs to one update.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import keras
import numpy as np

from keras_aeos import AEoSMonitor, array_files
from keras_aeos.callbacks import state
from keras_aeos.curvature import replicas
from trainers import schema, strategies
from trainers.errors import UserError
from trainers.run_directory import CHECKPOINTS
from trainers.signals import SIGNALS, Interrupted, signals

_VERSION = 1
# The one before the last is there if the last is damaged.
_NUM_KEPT = 2
_MONITOR, _MODEL, _OPTIMIZER = "monitor/", "model/", "optimizer/"


class Stateful(Protocol):
    """A callback that a run goes on with."""

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON has it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Remember it again, before training begins."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after some updates.

    Attributes:
        update: Number of updates done.
        seconds: Wall time that they took.
        callbacks: States of the callbacks, in their order.
        monitor: The state of the monitor.
        model: Values of the model's variables.
        optimizer: Values of the optimizer's variables.
    """

    update: int
    seconds: float
    callbacks: list[dict[str, Any]]
    monitor: state.State
    model: list[np.ndarray]
    optimizer: list[np.ndarray]

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        arrays = {_MONITOR + name: array for name, array in self.monitor.arrays.items()}
        for prefix, values in ((_MODEL, self.model), (_OPTIMIZER, self.optimizer)):
            arrays |= {f"{prefix}{i}": array_files.plain(v) for i, v in enumerate(values)}
        facts = {
            "version": _VERSION,
            **{"update": self.update, "seconds": self.seconds, "callbacks": self.callbacks},
            "monitor": self.monitor.text(),
        }
        array_files.write(path, arrays, json.dumps(facts))

    def restore(
        self, model: keras.Model, monitor: AEoSMonitor, callbacks: Sequence[Stateful]
    ) -> None:
        """Give all of it back, before training begins.

        Of several processes, those that aren't the chief have the first of its callbacks alone.

        Raises:
            ValueError: If it is that of another model, optimizer or list of callbacks.
        """
        if len(callbacks) > len(self.callbacks):
            raise ValueError(f"it has {len(self.callbacks)} callbacks in place of {len(callbacks)}")
        assign(model.variables, self.model)
        assign(model.optimizer.variables, self.optimizer)
        monitor.go_on_with(self.monitor)
        try:
            for callback, remembered in zip(callbacks, self.callbacks, strict=False):
                callback.restore(remembered)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it has callbacks of another run: {error}") from error


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is damaged or of another kind.
    """
    arrays, text = array_files.read(path)
    try:
        facts = json.loads(text)
        if facts["version"] != _VERSION:
            raise ValueError(f"it is of version {facts['version']}")
        return Checkpoint(
            int(facts["update"]),
            float(facts["seconds"]),
            list(facts["callbacks"]),
            state.parsed(facts["monitor"], _under(_MONITOR, arrays)),
            list(_under(_MODEL, arrays).values()),
            list(_under(_OPTIMIZER, arrays).values()),
        )
    except (KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"it is no checkpoint: {type(error).__name__}: {error}") from error


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Give variables their values of a checkpoint.

    Raises:
        ValueError: If they have other shapes.
    """
    shapes = [tuple(v.shape) for v in variables]
    if [value.shape for value in values] != shapes:
        raise ValueError("it has variables of other shapes than this run")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(array_files.typed(value, variable.dtype))


def values_of(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """The values of variables for a checkpoint."""
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]


class Saved(Protocol):
    """What can be kept in a file: the state of a run after `update` updates."""

    @property
    def update(self) -> int:
        """Number of updates done."""

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""


_Saved = TypeVar("_Saved", bound=Saved)


class Checkpoints(Generic[_Saved]):
    """The last checkpoints of a run, ``checkpoints/UPDATE.npz``.

    Args:
        directory: The run's directory.
        read: Function that reads a checkpoint, with the errors of `read`.
    """

    def __init__(self, directory: Path, read: Callable[[Path], _Saved]) -> None:
        self._directory = directory / CHECKPOINTS
        self._read = read

    def newest(self) -> _Saved | None:
        """The newest one that is whole, None if there is none. Damaged ones are named on stderr."""
        for path in reversed(self._paths()):
            try:
                return self._read(path)
            except (OSError, ValueError) as error:
                print(
                    f"warning: {path} can't be read: {error}. The checkpoint before it is used, "
                    "if there is one",
                    file=sys.stderr,
                    flush=True,
                )
        return None

    def try_to_keep(self, checkpoint: _Saved) -> Path | None:
        """`keep`, or None if it can't be written; a line on stderr says so."""
        try:
            return self.keep(checkpoint)
        except OSError as error:
            print(
                f"warning: no checkpoint of update {checkpoint.update} could be written: {error}. "
                "The run goes on, and the next one is tried",
                file=sys.stderr,
                flush=True,
            )
            return None

    def keep(self, checkpoint: _Saved) -> Path:
        """Write a checkpoint, and remove all but the last two.

        Raises:
            OSError: If it can't be written. The others stay.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{checkpoint.update}.npz"
        checkpoint.write(path)
        for old in self._paths()[:-_NUM_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def remove(self) -> None:
        """Remove all of them: the run is finished."""
        if not self._directory.is_dir():
            return
        for path in self._directory.glob("*.npz*"):
            path.unlink(missing_ok=True)
        self._directory.rmdir()

    def _paths(self) -> list[Path]:
        """The files, the oldest first."""
        paths = [p for p in self._directory.glob("*.npz") if p.stem.isascii() and p.stem.isdigit()]
        return sorted(paths, key=lambda path: int(path.stem))


class Clock:
    """When a checkpoint is due, and the wall time of a run.

    Args:
        section: How often.
        seconds: Wall time of the run before this process.
    """

    def __init__(self, section: schema.Checkpoint, seconds: float = 0.0) -> None:
        self._section = section
        self._seconds = seconds
        self._began = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of the run so far."""
        return self._seconds + time.monotonic() - self._began

    def is_due(self, update: int) -> bool:
        """Whether a checkpoint is due after an update."""
        freq, minutes = self._section.freq, self._section.minutes
        if freq is not None and update % freq == 0:
            return True
        return minutes is not None and time.monotonic() - self._last >= 60.0 * minutes

    def restart(self) -> None:
        """Begin to count the minutes anew, because one was written."""
        self._last = time.monotonic()


class Checkpointing(keras.callbacks.Callback):
    """Writes checkpoints while a run trains, and ends it at a signal; the last of its callbacks.

    If a checkpoint can't be written, a line on stderr says so, and training goes on. Of several
    processes the chief writes, when its clock says so, and a signal to one of them ends all after
    the same update.

    Args:
        clock: When they are due.
        steps: Updates that the run makes.
        checkpoints: Where to.
        monitor: The run's monitor.
        callbacks: Its other callbacks that remember something.
    """

    def __init__(
        self,
        clock: Clock,
        steps: int,
        checkpoints: Checkpoints[Checkpoint],
        monitor: AEoSMonitor,
        callbacks: Sequence[Stateful],
    ) -> None:
        super().__init__()
        self._clock, self._steps = clock, steps
        self._checkpoints = checkpoints
        self._monitor, self._callbacks = monitor, callbacks
        self._written: Path | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a checkpoint if one is due, or if the run is to end.

        Raises:
            Interrupted: If a signal asks for the end.
        """
        update = epoch + 1
        if self.model.stop_training or update == self._steps:
            return
        chief = strategies.is_chief(self.model.distribute_strategy)
        number, due = self._agreed(chief and self._clock.is_due(update))
        if chief and (due or number is not None):
            self._write(update)
        if number is not None:
            kept = (
                last_checkpoint(self._written) if chief else "its first process has the checkpoints"
            )
            raise Interrupted(number, f"after update {update} of {self._steps}; {kept}")

    def _agreed(self, due: bool) -> tuple[int | None, bool]:
        """The signal that one of the processes has received, and whether a checkpoint is due."""
        asked = [float(signals.pending == number) for number in SIGNALS] + [float(due)]
        *received, due_now = replicas.total(self.model.distribute_strategy, asked)
        numbers = [number for number, count in zip(SIGNALS, received, strict=True) if count]
        return (numbers[0] if numbers else None), bool(due_now)

    def _write(self, update: int) -> None:
        present = Checkpoint(
            update,
            self._clock.seconds,
            [callback.state() for callback in self._callbacks],
            state.of(self._monitor),
            values_of(self.model.variables),
            values_of(self.model.optimizer.variables),
        )
        self._written = self._checkpoints.try_to_keep(present) or self._written
        self._clock.restart()


def last_checkpoint(written: Path | None) -> str:
    """The last checkpoint that has been written, in words."""
    return f"its last checkpoint is {written}" if written else "no checkpoint"


def unusable(why: object) -> UserError:
    """What is raised if a run can't go on from its checkpoint."""
    return UserError(
        f"the run can't go on from its checkpoint: {why}. With resume=never it starts anew, and "
        "the files so far are moved aside"
    )
