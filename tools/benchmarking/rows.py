"""The number of rows that a monitor gives by default in trainings of some lengths."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras

from keras_aeos import AEoSMonitor
from keras_aeos.callbacks import schedule
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import available_examples, compiled
from tools.benchmarking.timing import NUM_REPEATS, seconds

# Lengths of the trainings, in minutes. That of the first one is trained, the others are computed.
LENGTHS = (1, 10, 60)
# Rows measured after it, so many updates apart: three or four of them with everything in them.
NUM_LATER, UPDATES_BETWEEN = 20, 10
# Edge ratios in a computed training: the schedule measures least often at rest far from the edge.
RESTING, NEAR = 0.1, 1.0


_LABELS = ("data", "update, ms", "first row, s", "first number after, s", "later rows, median, s")
_LABELS_OF_ROWS = ("in gradients", "products", "rows in 1 min, counted")
FORMATS = dict.fromkeys(
    (*_LABELS, *_LABELS_OF_ROWS, *(f"rows in {minutes} min" for minutes in LENGTHS)), "{}"
)


def rows(name: str) -> dict[str, str]:
    """Train for a minute; from what its rows and updates take compute the rows of an hour."""
    model, kind, x, y = compiled(name, available_examples)
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(log_dir=directory)
        watch = Watch(monitor)
        model.fit(
            *(x, y), batch_size=len(x) // 4, epochs=10**6, verbose=0, callbacks=[monitor, watch]
        )
    history = monitor.history
    first, later = history["seconds"][0], watch.later
    begins = [
        row_begins(watch.start, watch.update, first, later, 60.0 * LENGTHS[-1], ratio)
        for ratio in (RESTING, NEAR)
    ]
    meter: Any = monitor._meter.meter
    gradient = _gradient_seconds(meter._current_objective())
    return {
        "data": kind,
        "update, ms": f"{1e3 * watch.update:.0f}",
        "first row, s": f"{first:.1f}",
        "first number after, s": f"{begins[0][0] + first:.1f}",
        "later rows, median, s": f"{statistics.median(later):.2f}",
        "in gradients": f"{statistics.median(later) / gradient:.1f}",
        "products": f"{history['num_hvps'][-NUM_LATER:].median():.0f}",
        "rows in 1 min, counted": str(watch.num_rows),
        **{
            f"rows in {minutes} min": " to ".join(
                str(sum(begin <= 60.0 * minutes for begin in times)) for times in begins
            )
            for minutes in LENGTHS
        },
    }


def row_begins(
    start: float, update: float, first: float, later: Sequence[float], length: float, ratio: float
) -> list[float]:
    """Seconds at which the rows of a training begin, by the monitor's schedule.

    Args:
        start: Seconds before the first update.
        update: Seconds of an update.
        first: Seconds of the first row.
        later: Seconds of the rows after it, repeated as often as needed.
        length: Seconds of the training.
        ratio: The edge ratio, the same in all rows.
    """
    now = start
    automatic = schedule.Automatic(schedule.MAX_OVERHEAD, clock=lambda: now)
    due, step = automatic.begin(0), 0
    begins: list[float] = []
    for cost in itertools.chain([first], itertools.cycle(later)):
        now += (due - step) * update
        step = due
        if now > length:
            break
        begins.append(now)
        now += cost
        due = automatic.after(step, cost, ratio)
    return begins


class Watch(keras.callbacks.Callback):
    """Stops a training after the first of `LENGTHS` and `NUM_LATER` rows more; takes the times.

    Attributes:
        start: Seconds from the beginning of training to the end of the first batch.
        update: Seconds of an update.
        num_rows: Number of rows in the training of the first length.
        later: Seconds of the rows after it.
    """

    def __init__(self, monitor: AEoSMonitor) -> None:
        super().__init__()
        self._monitor = monitor
        self.start = self.update = 0.0
        self.num_rows = self._num_updates = 0
        self.later: list[float] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Look at the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Look at the clock; once the first part is over, measure every few updates."""
        self._num_updates += 1
        elapsed = time.perf_counter() - self._began
        if not self.start:
            self.start = elapsed
        if elapsed <= 60.0 * LENGTHS[0]:
            return
        history = self._monitor.history
        if not self.num_rows:
            self.num_rows = len(history)
            trained = elapsed - self.start - history["seconds"].sum()
            self.update = trained / (self._num_updates - 1)
            self._end = self._num_updates
        elif (self._num_updates - self._end) % UPDATES_BETWEEN == 0:
            self._monitor.measure()
            self.later.append(self._monitor.history["seconds"].iloc[-1])
            self.model.stop_training = len(self.later) == NUM_LATER


def _gradient_seconds(objective: Objective) -> float:
    """Median time of the loss and the gradient on the measured examples."""
    arguments = [given for _, given in objective.linearise()._arguments()]

    def call() -> None:
        for given in arguments:
            objective.parts.fixed(*given)

    return statistics.median(seconds(call) for _ in range(NUM_REPEATS))
