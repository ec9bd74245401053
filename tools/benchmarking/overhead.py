"""The share of the training time that a monitor takes by default."""

import tempfile
import time
from typing import Any

import keras

from keras_aeos import AEoSMonitor
from tools.benchmarking.networks import compiled
from tools.benchmarking.timing import seconds

# Length of a monitored training, in times of its first row. The monitor's limit holds from fifty.
LENGTH = 60.0


FORMATS = {
    "seconds": "{:.0f}",
    "steps": "{:,}",
    "rows": "{}",
    "first row, s": "{:.1f}",
    "later rows, s": "{:.2f}",
    "logged share": "{:.1%}",
    "share of the whole time": "{:.1%}",
    "time with / without the monitor": "{:.3f}",
}


def overhead(name: str) -> dict[str, Any]:
    """Measure the monitor's share of the wall time, and compare it with the logged one."""
    model, x, y = compiled(name)
    size = len(x) // 4
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(log_dir=directory)
        model.fit(x, y, batch_size=size, verbose=0)  # traces
        began = time.perf_counter()
        stop = StopAfter(monitor)
        model.fit(x, y, batch_size=size, epochs=10**6, verbose=0, callbacks=[monitor, stop])
        watched = time.perf_counter() - began
    few = -(-stop.num_epochs // 5)
    unwatched = seconds(lambda: model.fit(x, y, batch_size=size, epochs=few, verbose=0))
    history = monitor.history
    return {
        "seconds": watched,
        "steps": 4 * stop.num_epochs,
        "rows": len(history),
        "first row, s": float(history["seconds"][0]),
        "later rows, s": float(history["seconds"][1:].median()),
        "logged share": float(history["overhead"].iloc[-1]),
        "share of the whole time": float(history["seconds"].sum() / watched),
        "time with / without the monitor": watched / stop.num_epochs / (unwatched / few),
    }


class StopAfter(keras.callbacks.Callback):
    """Stop training at the end of an epoch, `LENGTH` times as long as a monitor's first row."""

    def __init__(self, monitor: AEoSMonitor) -> None:
        super().__init__()
        self._monitor = monitor
        self._began = time.perf_counter()
        self.num_epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look at the clock."""
        self.num_epochs = epoch + 1
        rows = self._monitor.history["seconds"]
        elapsed = time.perf_counter() - self._began
        self.model.stop_training = len(rows) > 0 and elapsed > LENGTH * rows[0]
