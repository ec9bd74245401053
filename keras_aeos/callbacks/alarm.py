"""The callback that says that training is about to diverge."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from keras_aeos import alarm_rule, constraints
from keras_aeos.callbacks.monitor import AEoSMonitor
from keras_aeos.callbacks.never_raises import never_raises
from keras_aeos.callbacks.resuming import of_one_model
from keras_aeos.callbacks.running import companions

# The key in Keras' `logs`.
_KEY = "alarm"
_FAILED = "The alarm failed and reads no more rows. Training goes on. {kind}: {error}"


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What a `DivergenceAlarm` saw; as text, in a sentence.

    Attributes:
        step: Number of updates at the row that raised it.
        score: Score of that row, between 0 and 1.
        edge_ratio: Edge ratio of that row.
        since: Step of the first row from which on the edge ratio has been above 1; None if it is
            not above 1.
        learning_rate: η of the last update.
        stable_learning_rate: The largest stable η with P as it is, ``η / edge_ratio``.
    """

    step: int
    score: float
    edge_ratio: float
    since: int | None
    learning_rate: float
    stable_learning_rate: float

    def __str__(self) -> str:
        above = "" if self.since is None else f", and has been above 1 since step {self.since}"
        return (
            f"At step {self.step} training is about to diverge or spike: the edge ratio is "
            f"{self.edge_ratio:.3g}{above} (score {self.score:.2f}). The learning rate is "
            f"{self.learning_rate:.3g}; the largest stable one is {self.stable_learning_rate:.3g}."
        )


class DivergenceAlarm(keras.callbacks.Callback):
    """Says that training is about to diverge or spike, from the first rise of the loss.

    It reads the rows of an `AEoSMonitor`. From each row follows a *score* between 0 and 1,

        score = 1 / (1 + exp(-b - v log r - w log(f / f_min))),

    where r is the edge ratio, f the loss of the row and f_min its smallest value so far; log r is
    cut off at -3 and 1, the other logarithm at 2. The coefficients are fitted to small trainings
    that diverged or didn't, ``python tools/alarms.py judge``. The page on acting says how often the
    alarm is right and how early it comes: it misses most divergences.

    Give the monitor examples as `data`. Without, the losses of two rows are of different batches,
    and one may seem to rise that doesn't. The alarm was judged on losses of the same examples.

    An alarm is raised at the first row with a score above `threshold`, and again after the score
    has been below half of it. The last score is in Keras' `logs` after every batch and epoch as
    ``alarm``, NaN before the first row. Put the alarm behind the monitor in the list.

    With ``action="warn"`` the trained weights are bit for bit those without the alarm. It never
    ends training by an error of its own: if it fails, a warning says why. An error of `action` is
    not caught. A training that is resumed with the rows of its monitor goes on with the same
    scores and alarms.

    Args:
        action: String or function. What an alarm does: ``"warn"`` (default) gives a warning,
            ``"stop"`` gives a warning and ends training after the batch, a function is called with
            the `Alarm`.
        monitor: `AEoSMonitor` or None. The monitor to read; None (default) for the one among the
            callbacks of the training.

    Raises:
        ValueError: If an argument is out of range; when training begins, if there is no monitor
            among its callbacks, or more than one.

    Attributes:
        alarms: The alarms so far, a list of `Alarm`.

    Example:
        ```python
        alarm = keras_aeos.DivergenceAlarm()
        model.fit(x, y, epochs=10, callbacks=[keras_aeos.AEoSMonitor(), alarm])
        print(alarm.alarms)
        ```
    """

    def __init__(
        self,
        action: str | Callable[[Alarm], None] = "warn",
        *,
        monitor: AEoSMonitor | None = None,
    ) -> None:
        super().__init__()
        constraints.check(action=action, monitor=monitor)
        self.action = action
        self.alarms: list[Alarm] = []
        self._given = monitor
        self._monitor: AEoSMonitor | None = None
        self._score = math.nan
        self._num_rows = 0
        self._raised: Alarm | None = None
        self._failed = False

    @property
    def threshold(self) -> float:
        """The score above which there is an alarm."""
        return alarm_rule.load().threshold

    @property
    def scores(self) -> pd.DataFrame:
        """The scores so far, a `pandas.DataFrame` with the columns ``step`` and ``score``."""
        rows = [] if self._monitor is None else of_one_model(self._monitor._rows)
        steps, scores = _scored(rows)
        return pd.DataFrame({"step": steps, "score": scores})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the monitor."""
        self._monitor = self._given or self._found()
        self._score, self._num_rows, self._raised, self._failed = math.nan, 0, None, False
        self.alarms.clear()

    def _found(self) -> AEoSMonitor:
        """The only monitor among the callbacks of this training."""
        others = companions(self)
        monitors = list({id(c): c for c in others if isinstance(c, AEoSMonitor)}.values())
        if len(monitors) != 1:
            raise ValueError(
                "A DivergenceAlarm reads one AEoSMonitor. Pass one to `fit` in `callbacks`, before "
                "the alarm; if there are several, or none is among the callbacks, name it: "
                f"`monitor=`. Received: callbacks with {len(monitors)} monitors"
            )
        return monitors[0]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Read new rows, act, and put the score into `logs`."""
        self._look(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the score into `logs`."""
        self._look(logs)

    def _look(self, logs: dict[str, Any] | None) -> None:
        self._read()
        if logs is not None:
            logs.setdefault(_KEY, self._score)
        alarm, self._raised = self._raised, None
        if alarm is not None:
            self._act(alarm)

    def _act(self, alarm: Alarm) -> None:
        if callable(self.action):
            self.action(alarm)
            return
        warnings.warn(str(alarm), stacklevel=2)
        if self.action == "stop":
            self.model.stop_training = True

    @never_raises
    def _read(self) -> None:
        """Score the rows, if there are new ones, and take note of a new alarm."""
        monitor = self._monitor
        if self._failed or monitor is None or len(monitor._rows) == self._num_rows:
            return
        self._num_rows = len(monitor._rows)
        rows = of_one_model(monitor._rows)
        _, scores = _scored(rows)
        self._score = float(scores[-1]) if len(scores) else math.nan
        known = {alarm.step: alarm for alarm in self.alarms}
        places = alarm_rule.load().raised(scores)
        self.alarms = [known.get(rows[i]["step"]) or _alarm(rows, scores, i) for i in places]
        # Those of rows before this training were acted upon when they came.
        begun = 0 if monitor._fit is None else monitor._fit.num_updates_before
        last = self.alarms[-1] if self.alarms else None
        if last is not None and last.step not in known and last.step > begun:
            self._raised = last

    def _stop_measuring(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(_FAILED.format(kind=type(error).__name__, error=error), stacklevel=2)


def _scored(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The steps of rows and their scores."""
    columns = {
        name: np.array([row[name] for row in rows], np.float64) for name in alarm_rule.COLUMNS
    }
    return columns["step"].astype(np.int64), alarm_rule.load().scores(columns)


def _alarm(rows: Sequence[Mapping[str, Any]], scores: np.ndarray, place: int) -> Alarm:
    """The alarm of a row."""
    row, begin = rows[place], place
    ratio = float(row["edge_ratio"])
    while begin > 0 and rows[begin - 1]["edge_ratio"] > 1.0:
        begin -= 1
    return Alarm(
        step=int(row["step"]),
        score=float(scores[place]),
        edge_ratio=ratio,
        since=int(rows[begin]["step"]) if ratio > 1.0 else None,
        learning_rate=float(row["learning_rate"]),
        stable_learning_rate=float(row["learning_rate"]) / ratio if ratio > 0.0 else math.inf,
    )
