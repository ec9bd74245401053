"""Evaluation on the test split while a run trains."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.callbacks import cut_back, tensorboard, writers
from trainers import run_directory
from trainers.callbacks import TrainingLoss


class Evaluation(keras.callbacks.Callback):
    """Evaluates on the test split and writes `evaluation.csv` and TensorBoard events.

    The model is evaluated as in inference, with BatchNorm's moving statistics.

    Args:
        test: Micro-batches ``(inputs, targets)``, finite.
        directory: The run's directory.
        freq: Updates between evaluations; None to evaluate only when `evaluate` is called.
        updates_per_epoch: Batches that the training loss is the mean of.

    Attributes:
        columns: The columns of `evaluation.csv`; `_evaluate` returns the third and later ones.
    """

    columns: tuple[str, ...] = run_directory.EVALUATION_COLUMNS

    def __init__(
        self, test: tf.data.Dataset, directory: Path, freq: int | None, updates_per_epoch: int
    ) -> None:
        super().__init__()
        self._test = test
        self._path = directory / run_directory.EVALUATION
        self._event_directory = directory / run_directory.TENSORBOARD / "test"
        self._freq = freq
        self._training_loss = TrainingLoss(updates_per_epoch)
        self._now, self._last_step = (0, math.inf), 0
        self._rows: list[dict[str, Any]] = []
        events = f"events.out.tfevents.{time.time():010.0f}.{os.getpid()}"
        self._files = {
            self._path: writers.csv_file(self.columns),
            self._event_directory / events: writers.event_file(
                # Beside the curve of the training loss, in another colour.
                lambda row: tensorboard.scalars(
                    {f"training/{n.removeprefix('test_')}": row[n] for n in self.columns[2:]}
                )
            ),
        }

    def state(self) -> dict[str, Any]:
        """The evaluations and the losses so far."""
        return {"rows": self._rows, "now": self._now, "losses": self._training_loss.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with what `state` returned."""
        self._rows = list(state["rows"])
        step, loss = state["now"]
        self._now = step, loss
        self._last_step = self._rows[-1]["step"] if self._rows else 0
        self._training_loss.restore(state["losses"])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Write the header, and the rows so far if the run goes on."""
        self._traced = tf.function(self._evaluate_batch, reduce_retracing=True)
        cut_back.write_csv(self._path, self.columns, self._rows)
        cut_back.cut_events(self._event_directory, self._now[0])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate every `freq` updates."""
        self._now = epoch + 1, self._training_loss.after(float((logs or {})["loss"]))
        if self._freq is not None and (epoch + 1) % self._freq == 0:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate, unless it was done after this update already."""
        step, training_loss = self._now
        if step == self._last_step:
            return
        self._last_step = step
        row = dict(zip(self.columns, (step, training_loss, *self._evaluate()), strict=True))
        self._rows.append(row)
        for file in self._files.values():
            file.add(row)
        try:
            self._flush()
        except OSError as error:
            print(
                f"warning: an evaluation could not be written: {error}. Training goes on, and it "
                "is written with the next one",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write what could not be written before.

        Raises:
            OSError: If it still can't be.
        """
        self._flush()

    def _flush(self) -> None:
        for path, file in self._files.items():
            file.flush(path)

    def _evaluate(self) -> tuple[float, ...]:
        """Mean loss on the test split, and the fraction of it that is misclassified."""
        sums = [self._traced(*batch) for batch in self._test]
        loss, wrong, count = (float(sum(column)) for column in zip(*sums, strict=True))
        return loss / count, wrong / count

    def _evaluate_batch(
        self, inputs: Any, targets: tf.Tensor, *weights: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Sum of the losses, number of misclassified examples and number of examples."""
        outputs = self.model(inputs, training=False)
        labels = tf.argmax(targets, -1) if targets.shape.rank == 2 else tf.cast(targets, tf.int64)
        wrong = tf.reduce_sum(tf.cast(tf.argmax(outputs, -1) != labels, tf.float32))
        count = tf.cast(tf.shape(inputs)[0], tf.float32)
        return count * self.model.loss(targets, outputs), wrong, count
