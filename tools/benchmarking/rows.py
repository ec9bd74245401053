"""The cost of the rows of a monitor with its default columns."""

import tempfile
from typing import Any

import numpy as np

from keras_aeos import AEoSMonitor
from tools.benchmarking.networks import available_examples, batch_size, compiled, gradient
from tools.benchmarking.timing import medians

# Updates before the first row and between rows, and the rows after the first.
_NUM_BEFORE, _UPDATE_FREQ, _NUM_ROWS = 30, 10, 20
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


def rows(name: str) -> dict[str, Any]:
    """Measure the later rows of a full-batch training by Adam, in gradients of their examples."""
    model, kind, x, y = compiled(name, available_examples)
    size = batch_size(name, len(x))
    options = {"batch_size": size, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=_NUM_BEFORE, **options)
    per_epoch = -(-len(x) // size)
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(
            (x, y), update_freq=_UPDATE_FREQ * per_epoch, batch_size=size, log_dir=directory
        )
        epochs = _UPDATE_FREQ * (_NUM_ROWS + 1)
        model.fit(x, y, epochs=epochs, callbacks=[monitor], **options)
    took = monitor.history["seconds"].to_numpy()
    unit = medians({"gradient": gradient(model, x, y, size)})["gradient"]
    later = took[1:] / unit
    return {
        "data": kind,
        "gradient, ms": 1e3 * unit,
        "rows": len(took),
        "first row, s": float(took[0]),
        "products, median": float(monitor.history["num_hvps"][1:].median()),
        "gradients, median": float(np.median(later)),
        "gradients, mean": float(np.mean(later)),
        "gradients, largest": float(np.max(later)),
    }
