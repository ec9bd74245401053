"""Whether a long training with a row every few updates stays as it was: memory, handles, time."""

import os
import statistics
import tempfile
import time
from typing import Any

import keras
import numpy as np

from keras_aeos import AEoSMonitor

# Length of each case in minutes. The first twelfth, five minutes of an hour, is warming up.
CASES = {"60 minutes": 60.0, "3 minutes": 3.0}
_WARMING_UP = 1 / 12
_UPDATE_FREQ = 5
# Share of the rest at its beginning and at its end whose medians are compared.
_COMPARED = 1 / 10

_COUNTED = {"resident memory, MB": "{:.0f}", "file handles": "{:.0f}", "threads": "{:.0f}"}
_ROW = "row / update"
FORMATS = {
    "updates": "{:,}",
    "rows": "{:,}",
    **{
        f"{name}, {when}": spec
        for name, spec in {**_COUNTED, _ROW: "{:.1f}"}.items()
        for when in ("beginning", "end")
    },
}


def soak(case: str) -> dict[str, Any]:
    """Train a small network for as long as a case says; compare its beginning with its end."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((256, 32)), generator.integers(0, 10, 256)
    model = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(32, "tanh"), keras.layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(update_freq=_UPDATE_FREQ, log_dir=directory)
        backup = keras.callbacks.ModelCheckpoint(
            os.path.join(directory, "model.weights.h5"), save_weights_only=True, save_freq=1_000
        )
        watch = Watch(60.0 * CASES[case])
        model.fit(x, y, batch_size=32, epochs=10**9, verbose=0, callbacks=[monitor, backup, watch])
    rows = monitor.history
    first = watch.num_rows_warming_up
    compared = max(1, int(_COMPARED * (len(watch.updates) - first)))
    parts = {"beginning": slice(first, first + compared), "end": slice(-compared, None)}
    return {
        "updates": int(model.optimizer.iterations),
        "rows": len(rows),
        **{
            f"{name}, {when}": statistics.median(counts[part])
            for name, counts in watch.counts.items()
            for when, part in parts.items()
        },
        **{
            # Both were under the same load.
            f"{_ROW}, {when}": float((rows["seconds"].iloc[part] / watch.updates[part]).median())
            for when, part in parts.items()
        },
    }


class Watch(keras.callbacks.Callback):
    """Counts after every row what the process holds, and stops training after a time.

    Attributes:
        counts: Lists of numbers by name, one for each row.
        updates: Seconds of the update before each row, without the row.
        num_rows_warming_up: Number of rows before the first that is compared.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._length = seconds
        self._num_updates = self.num_rows_warming_up = 0
        self._began = time.perf_counter()
        self.counts: dict[str, list[float]] = {name: [] for name in _COUNTED}
        self.updates: list[float] = []
        self._seconds = self._update_began = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Start the clock of an update."""
        self._update_began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count."""
        self._num_updates += 1
        if self._num_updates % _UPDATE_FREQ:
            self._seconds = time.perf_counter() - self._update_began
            return
        self.updates.append(self._seconds)
        for name, number in zip(_COUNTED, held(), strict=True):
            self.counts[name].append(number)
        elapsed = time.perf_counter() - self._began
        if elapsed < _WARMING_UP * self._length:
            self.num_rows_warming_up += 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stop training if it has lasted long enough."""
        self.model.stop_training = time.perf_counter() - self._began > self._length


def held() -> tuple[float, int, int]:
    """Resident memory of this process in MB, its open files and its threads, as Linux counts."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return memory, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
