"""The cost of the rows of a monitor with its default columns."""

import tempfile
from typing import Any

import numpy as np

from keras_aeos import AEoSMonitor, Eigensolver
from keras_aeos.callbacks import schedule
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
    per_epoch = -(-len(x) // size)
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(
            (x, y),
            update_freq=_UPDATE_FREQ * per_epoch,
            solver=Eigensolver(rtol=1e-2, max_hvps=schedule.max_hvps(1)),  # as with "auto"
            batch_size=size,
            log_dir=directory,
        )
        epochs = _UPDATE_FREQ * (_NUM_ROWS + 1)
        model.fit(x, y, epochs=epochs, callbacks=[monitor], **options)
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
