"""What watches a run besides the monitor: stop criteria, evaluation and the progress bar.

In each of them an epoch of Keras is one update, and its `loss` that of the batch just before it.
"""

import collections
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from trainers import run_directory


class TrainingLoss:
    """The training loss: the mean over the batches of the last epoch, infinite before there is one.

    Args:
        updates_per_epoch: Batches of an epoch; 1 for full batches.
    """

    def __init__(self, updates_per_epoch: int) -> None:
        self._losses: collections.deque[float] = collections.deque(maxlen=updates_per_epoch)

    def after(self, batch_loss: float) -> float:
        """The training loss once another batch was seen."""
        self._losses.append(batch_loss)
        whole = len(self._losses) == self._losses.maxlen
        return sum(self._losses) / len(self._losses) if whole else math.inf


class StopCriteria(keras.callbacks.Callback):
    """Ends training at divergence or below a training loss; stands behind the monitor in the list.

    Args:
        loss_threshold: Stop once the training loss is at most this; None for never.
        updates_per_epoch: Batches that the training loss is the mean of.

    Attributes:
        status: "completed" or "diverged".
        reason: Why training ended, in words.
        steps: Updates done.
        first_loss: Loss before the first update; None before training.
        last_loss: Loss before the last update with a finite one; None before training.
    """

    def __init__(self, loss_threshold: float | None = None, updates_per_epoch: int = 1) -> None:
        super().__init__()
        self.loss_threshold = loss_threshold
        self.status = "completed"
        self.reason = "all steps done"
        self.steps = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self._training_loss = TrainingLoss(updates_per_epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the criteria."""
        loss = float((logs or {})["loss"])
        self.steps = epoch + 1
        if not math.isfinite(loss):
            self.status, self.reason = "diverged", f"the loss became {loss}"
            self.model.stop_training = True
            return
        self.last_loss = loss
        if self.first_loss is None:
            self.first_loss = loss
        loss = self._training_loss.after(loss)
        if self.loss_threshold is not None and loss <= self.loss_threshold:
            self.reason = f"the loss fell to {loss:.6g}, stop.loss_threshold={self.loss_threshold}"
            self.model.stop_training = True


class OnceBelow(keras.callbacks.Callback):
    """Calls a function once, after the first update with a training loss of at most a threshold.

    Args:
        loss_threshold: The threshold.
        updates_per_epoch: Batches that the training loss is the mean of.
        function: What to call.

    Attributes:
        step: Updates done when it was called; None before.
    """

    def __init__(
        self, loss_threshold: float, updates_per_epoch: int, function: Callable[[], None]
    ) -> None:
        super().__init__()
        self.step: int | None = None
        self._loss_threshold = loss_threshold
        self._training_loss = TrainingLoss(updates_per_epoch)
        self._function = function

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Call the function if this is the update."""
        loss = self._training_loss.after(float((logs or {})["loss"]))
        if self.step is None and loss <= self._loss_threshold:
            self.step = epoch + 1
            self._function()


class Evaluation(keras.callbacks.Callback):
    """Evaluates on the test split and writes `evaluation.csv` and TensorBoard events.

    The columns are those of `run_directory.EVALUATION_COLUMNS`. The model is evaluated as in
    inference, with BatchNorm's moving statistics.

    Args:
        test: Micro-batches ``(inputs, targets)``, finite.
        directory: The run's directory.
        freq: Updates between evaluations; None for none but those by `evaluate`.
        updates_per_epoch: Batches that the training loss is the mean of.

    Attributes:
        columns: Those of `evaluation.csv`; from the third on what `_evaluate` returns.
    """

    columns: tuple[str, ...] = run_directory.EVALUATION_COLUMNS

    def __init__(
        self, test: tf.data.Dataset, directory: Path, freq: int | None, updates_per_epoch: int
    ) -> None:
        super().__init__()
        self._test = test
        self._path = directory / run_directory.EVALUATION
        self._events = tf.summary.create_file_writer(
            str(directory / run_directory.TENSORBOARD / "test")
        )
        self._freq = freq
        self._training_loss = TrainingLoss(updates_per_epoch)
        self._now, self._last_step = (0, math.inf), 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Write the header."""
        self._traced = tf.function(self._evaluate_batch, reduce_retracing=True)
        self._write(self.columns, "w")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate if it is time to."""
        self._now = epoch + 1, self._training_loss.after(float((logs or {})["loss"]))
        if self._freq is not None and (epoch + 1) % self._freq == 0:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate, unless that was done since the last update."""
        step, training_loss = self._now
        if step == self._last_step:
            return
        self._last_step = step
        values = self._evaluate()
        self._write((step, training_loss, *values), "a")
        with self._events.as_default(step):
            for name, value in zip(self.columns[2:], values, strict=True):
                tf.summary.scalar(name, value)
        self._events.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the events."""
        self._events.close()

    def _evaluate(self) -> tuple[float, ...]:
        """Mean loss of the test split, and the part of it that is classified wrongly."""
        sums = [self._traced(*batch) for batch in self._test]
        loss, wrong, count = (float(sum(column)) for column in zip(*sums, strict=True))
        return loss / count, wrong / count

    def _evaluate_batch(self, inputs: Any, targets: tf.Tensor, *weights) -> tuple[tf.Tensor, ...]:
        """Sum of the losses, number of wrong classes and number of examples."""
        outputs = self.model(inputs, training=False)
        labels = tf.argmax(targets, -1) if targets.shape.rank == 2 else tf.cast(targets, tf.int64)
        wrong = tf.reduce_sum(tf.cast(tf.argmax(outputs, -1) != labels, tf.float32))
        count = tf.cast(tf.shape(inputs)[0], tf.float32)
        return count * self.model.loss(targets, outputs), wrong, count

    def _write(self, values: tuple, mode: str) -> None:
        with self._path.open(mode, newline="") as file:
            csv.writer(file).writerow(values)


class ProgressBar(keras.callbacks.Callback):
    """One line on stderr: step, loss and the latest edge ratio.

    Args:
        steps: Updates that training is to do.
        monitor: The `keras_aeos.AEoSMonitor` whose edge ratio to show; before this in the list.
        label: Text before the bar.
    """

    def __init__(self, steps: int, monitor: Any, label: str) -> None:
        super().__init__()
        self._steps = steps
        self._monitor = monitor
        self._label = label
        self._shown: dict[str, str] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Draw the empty bar."""
        self._bar = tqdm(total=self._steps, desc=self._label, unit="step", dynamic_ncols=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar on."""
        self._shown["loss"] = f"{float((logs or {})['loss']):.4f}"
        ratios = self._monitor.history["edge_ratio"]
        if len(ratios):
            self._shown["edge_ratio"] = f"{ratios.iloc[-1]:.2f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the bar."""
        self._bar.close()
