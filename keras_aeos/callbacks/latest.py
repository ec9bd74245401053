"""The monitor's latest values in Keras' `logs`, where other callbacks find them."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

# The columns of a row that go into `logs`, under the same names.
NAMES = ("edge_ratio", "preconditioned_sharpness", "stability_threshold", "sharpness")


class LatestValues(keras.callbacks.Callback):
    """The last known value of each of `NAMES`, NaN before there is one.

    As a callback it puts them into the logs of every batch and epoch. Keras hands the logs from one
    callback to the next, so it has to be called before those that read them.

    Every key is there from the first batch on, because `keras.callbacks.CSVLogger` fixes its
    columns at the end of the first epoch. If the logs have one of the keys already, as from a
    metric of the model or another monitor, all of these get the first free number,
    ``edge_ratio_2``, until the end of training.

    Args:
        columns: Names of the columns of a row; a name that is no column is left out.

    Attributes:
        first_loss: The loss of the first batch before its update, a float; None if it is not known.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        super().__init__()
        columns = set(columns)
        self._values = {name: math.nan for name in NAMES if name in columns}
        self._suffix: str | None = None
        self.first_loss: float | None = None
        self._begun = False

    def begin(self) -> None:
        """Choose the keys again: a training begins."""
        self._suffix = None

    def forget(self) -> None:
        """Drop the values: those to come are of another model."""
        self._values = dict.fromkeys(self._values, math.nan)
        self.first_loss, self._begun = None, False

    def note(self, row: Mapping[str, Any]) -> None:
        """Take the values of a row; a value that it lacks stays as it was."""
        for name in self._values:
            if not math.isnan(row[name]):
                self._values[name] = float(row[name])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the values into the logs of a batch."""
        self.add_to(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the values into the logs of an epoch."""
        self.add_to(logs)

    def add_to(self, logs: dict[str, Any] | None) -> None:
        """Put the values into the logs of a batch or an epoch."""
        if logs is None:
            return
        if not self._begun:
            self.first_loss, self._begun = logs.get("loss"), True
        if self._suffix is None:
            suffixes = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
            self._suffix = next(s for s in suffixes if not any(n + s in logs for n in self._values))
        logs.update({name + self._suffix: value for name, value in self._values.items()})
