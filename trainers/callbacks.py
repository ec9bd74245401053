"""Callbacks of a run besides the monitor and the evaluation: stop criteria, progress bar.

An epoch of Keras is one update, and its `loss` is that of the batch just before the update.
"""

import collections
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class TrainingLoss:
    """The training loss: the mean over the batches of the last epoch, infinite before there is one.

    Args:
        updates_per_epoch: Batches of an epoch; 1 for full batches.
    """

    def __init__(self, updates_per_epoch: int) -> None:
        self._losses: collections.deque[float] = collections.deque(maxlen=updates_per_epoch)

    def after(self, batch_loss: float) -> float:
        """The training loss after one more batch."""
        self._losses.append(batch_loss)
        whole = len(self._losses) == self._losses.maxlen
        return sum(self._losses) / len(self._losses) if whole else math.inf

    def state(self) -> list[float]:
        """The losses that it remembers."""
        return list(self._losses)

    def restore(self, losses: list[float]) -> None:
        """Remember these losses."""
        self._losses.extend(losses)


class StopCriteria(keras.callbacks.Callback):
    """Ends training at divergence or below a training loss; comes after the monitor in the list.

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

    def state(self) -> dict[str, Any]:
        """What the run so far has left here; it has not stopped."""
        return {
            **{"steps": self.steps, "first_loss": self.first_loss, "last_loss": self.last_loss},
            "losses": self._training_loss.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with what `state` returned."""
        self.steps = state["steps"]
        self.first_loss, self.last_loss = state["first_loss"], state["last_loss"]
        self._training_loss.restore(state["losses"])


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
        """Call the function if the loss has reached the threshold."""
        loss = self._training_loss.after(float((logs or {})["loss"]))
        if self.step is None and loss <= self._loss_threshold:
            self.step = epoch + 1
            self._function()

    def state(self) -> dict[str, Any]:
        """Whether the function was called, and the losses so far."""
        return {"step": self.step, "losses": self._training_loss.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with what `state` returned."""
        self.step = state["step"]
        self._training_loss.restore(state["losses"])


class ProgressBar(keras.callbacks.Callback):
    """One line on stderr: step, time to go, loss and the latest edge ratio.

    If stderr is no terminal, as in a log file, it writes a line every 30 seconds instead.

    Args:
        steps: Updates to make.
        label: Text before the bar.
    """

    def __init__(self, steps: int, label: str) -> None:
        super().__init__()
        self._steps = steps
        self._label = label
        self._first_epoch: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Draw the empty bar."""
        self._bar = tqdm(
            total=self._steps,
            desc=self._label,
            unit="step",
            dynamic_ncols=True,
            disable=None,  # without a terminal
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, "
            "{remaining} to go{postfix}",
        )
        self._began = self._last_line = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note where training begins, which is not at 0 if it goes on."""
        if self._first_epoch is None:
            self._first_epoch = epoch
            self._bar.initial = self._bar.n = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Advance the bar; `logs` hold the monitor's latest edge ratio, which comes earlier."""
        logs, step = logs or {}, epoch + 1
        shown = {"loss": f"{float(logs['loss']):.4g}"}
        ratio = float(logs.get("edge_ratio", math.nan))
        if not math.isnan(ratio):
            shown["edge_ratio"] = f"{ratio:.2f}"
        if not self._bar.disable:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            per_step = (now - self._began) / (step - (self._first_epoch or 0))
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            print(
                f"{self._label}: step {step} of {self._steps}, {values}, "
                f"{tqdm.format_interval((self._steps - step) * per_step)} to go",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the bar."""
        self._bar.close()
