"""What watches a full-batch run besides the monitor: stop criteria and the progress bar."""

import math
from typing import Any

import keras
from tqdm import tqdm


class StopCriteria(keras.callbacks.Callback):
    """Ends training at divergence or below a loss; stands behind the monitor in the list.

    An epoch is one update and its `loss` the full-batch loss just before it.

    Args:
        loss_threshold: Stop once the loss is at most this; None for never.

    Attributes:
        status: "completed" or "diverged".
        reason: Why training ended, in words.
        steps: Updates done.
        first_loss: Loss before the first update; None before training.
        last_loss: Loss before the last update with a finite one; None before training.
    """

    def __init__(self, loss_threshold: float | None = None) -> None:
        super().__init__()
        self.loss_threshold = loss_threshold
        self.status = "completed"
        self.reason = "all steps done"
        self.steps = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None

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
        if self.loss_threshold is not None and loss <= self.loss_threshold:
            self.reason = f"the loss fell to {loss:.6g}, stop.loss_threshold={self.loss_threshold}"
            self.model.stop_training = True


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
