"""The share of the training time that a monitor takes by default."""

import tempfile
import time
from collections.abc import Callable

import keras

from keras_aeos import AEoSMonitor
from tools.benchmarking.networks import NETWORKS, compiled
from tools.benchmarking.tables import print_rows
from tools.benchmarking.timing import seconds

# Length of a monitored training, in times of its first row. The monitor's limit holds from fifty.
LENGTH = 60.0


def print_table() -> None:
    """Print the monitor's share on three networks."""
    print_rows(overhead(build) for build in NETWORKS[:3])


def overhead(build: Callable) -> dict[str, str]:
    """Measure the monitor's share of the wall time, and compare it with the logged one."""
    model, x, y = compiled(build)
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
        "network": build.__name__,
        "seconds": f"{watched:.0f}",
        "steps": str(4 * stop.num_epochs),
        "rows": str(len(history)),
        "first row, s": f"{history['seconds'][0]:.1f}",
        "later rows, s": f"{history['seconds'][1:].median():.2f}",
        "logged share": f"{history['overhead'].iloc[-1]:.1%}",
        "share of the whole time": f"{history['seconds'].sum() / watched:.1%}",
        "time with / without the monitor": f"{watched / stop.num_epochs / (unwatched / few):.3f}",
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
