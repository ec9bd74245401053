"""Evaluation on the test split while a run trains."""

import csv
import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

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

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the files and write the header."""
        self._events = tf.summary.create_file_writer(str(self._event_directory))
        self._traced = tf.function(self._evaluate_batch, reduce_retracing=True)
        self._write(self.columns, "w")

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
        values = self._evaluate()
        self._write((step, training_loss, *values), "a")
        with self._events.as_default(step):
            for name, value in zip(self.columns[2:], values, strict=True):
                # Beside the curve of the training loss, in another colour.
                tf.summary.scalar(f"training/{name.removeprefix('test_')}", value)
        self._events.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the events."""
        self._events.close()

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

    def _write(self, values: tuple, mode: str) -> None:
        with self._path.open(mode, newline="") as file:
            csv.writer(file).writerow(values)
