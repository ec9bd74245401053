"""The cost of the rows of a monitor with its default columns."""

import tempfile
from typing import Any

import keras
import numpy as np

from keras_aeos import AEoSMonitor
from tools.benchmarking.networks import available_examples, batch_size, compiled, gradient
from tools.benchmarking.solves import train
from tools.benchmarking.timing import medians

# Updates before the first row and between rows, and the rows after the first.
_NUM_BEFORE, _UPDATE_FREQ, _NUM_ROWS = 30, 10, 12
FORMATS = {
    "data": "{}",
    "gradient, ms": "{:.1f}",
    "rows": "{}",
    "first row, s": "{:.1f}",
    "products, median": "{:.0f}",
    "gradients, median": "{:.1f}",
    "gradients, mean": "{:.1f}",
    "gradients, largest": "{:.1f}",
}


def row_cost(name: str) -> dict[str, Any]:
    """Measure the later rows of a full-batch training by Adam, in gradients of their examples."""
    model, kind, x, y = compiled(name, available_examples)
    size = batch_size(name, len(x))
    options = {"batch_size": size, "shuffle": False, "verbose": 0}
    train(model, x, y, size, _NUM_BEFORE)
    of_training = gradient(model, x, y, size)
    units = [medians({"gradient": of_training})["gradient"]]  # and once more after the rows
    with tempfile.TemporaryDirectory() as directory:
        # It measures once by itself; all other rows are asked for.
        monitor = AEoSMonitor((x, y), max_overhead=1e-6, batch_size=size, log_dir=directory)
        watch = [monitor, Rows(monitor, _UPDATE_FREQ * -(-len(x) // size))]
        model.fit(x, y, epochs=_UPDATE_FREQ * (_NUM_ROWS + 1), callbacks=watch, **options)
    took = monitor.history["seconds"].to_numpy()
    units.append(medians({"gradient": of_training})["gradient"])
    unit = np.mean(units)
    later = took[1:] / unit
    return {
        "data": kind,
        "gradient, ms": 1e3 * float(unit),
        "rows": len(took),
        "first row, s": float(took[0]),
        "products, median": float(monitor.history["num_hvps"][1:].median()),
        "gradients, median": float(np.median(later)),
        "gradients, mean": float(np.mean(later)),
        "gradients, largest": float(np.max(later)),
    }


class Rows(keras.callbacks.Callback):
    """Asks a monitor for a row every few updates, from the second time on.

    Args:
        monitor: The `AEoSMonitor`, which has its first row by then.
        num_updates: Updates between two rows.
    """

    def __init__(self, monitor: AEoSMonitor, num_updates: int) -> None:
        super().__init__()
        self._monitor = monitor
        self._freq = num_updates
        self._num_updates = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count."""
        self._num_updates += 1
        if self._num_updates > self._freq and self._num_updates % self._freq == 0:
            self._monitor.measure()
