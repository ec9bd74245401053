"""The callback that warms the learning rate up as fast as the curvature allows."""

import math
import warnings
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.callbacks import learning_rate_cap, training_function
from keras_aeos.callbacks.learning_rate_cap import LearningRateCap
from keras_aeos.callbacks.never_raises import never_raises
from keras_aeos.curvature.batches import MicroBatches, Nest, common_spec, num_rows, spec_of
from keras_aeos.curvature.critical_learning_rate import CriticalLearningRate, of_next_update
from keras_aeos.curvature.eigenpairs import objective_of
from keras_aeos.curvature.precision import full_precision
from keras_aeos.optimizers import dynamics

# The key in Keras' `logs`.
_KEY = "warmup_learning_rate"
_COLUMNS = ("step", "critical_learning_rate", "learning_rate", "num_passes")
# A measurement comes after one update, and then after this part of those so far.
_SPACING = 8
# Measurements without a critical learning rate after which training goes on without a limit.
_PATIENCE = 8
_FAILED = (
    "The warm-up failed and is over. From now on training has the learning rate of its optimizer. "
    "{kind}: {error}"
)
_UNSEEN = (
    "The batches are not seen. Train with the `fit` of Keras, in a model that makes its training "
    "function as Keras does. Received: a training without batches"
)


_UNKNOWN = (
    "In {number} measurements no learning rate was found at which the update by one half of a "
    "batch lowers the loss of the other. Train in larger batches. "
    "Received: batches of {size} examples"
)


class CurvatureWarmup(keras.callbacks.Callback):
    """Raises the learning rate to that of the optimizer as fast as the curvature allows.

    After some updates it measures the critical learning rate, the smallest at which the next
    update would raise the loss,

        η_c = min{η > 0 : f(x + η d) > f(x)},

    where the direction d is that of the optimizer with the gradient of one half of the last batch,
    and f is the loss of the other half. From then on training has

        η = min(η of the optimizer, factor max η_c),

    with the largest η_c so far. The η of the optimizer, the *target*, is a number or any schedule.
    When it is allowed, the warm-up is over, and costs nothing from then on. A target that is never
    allowed is never reached. Measurements come after the updates 1, 2, 3 and so on; from the eighth
    on the next one is an eighth of the updates so far ahead. In the first update the weights stay
    as they are, because nothing has been measured before it.

    A measurement takes a gradient and about four forward passes, each of half a batch. No second
    derivative is taken, so any layer and optimizer will do.

    The η of the last update is in Keras' `logs` as ``warmup_learning_rate``: after every epoch, and
    after every batch until the warm-up is over. Between updates `optimizer.learning_rate` is the
    target. Other callbacks may change it, and a saved model has it. The weights that Keras saves
    hold the state of the warm-up, so `BackupAndRestore` resumes it exactly. A model that is loaded
    from a ``.keras`` file begins a new warm-up, from its first update on.

    It never ends training by an error of its own: if it fails, a warning says why, and training
    has the target from then on, as without the callback. This is so, too, under a strategy with
    several workers, in a loop other than `fit`, and after eight measurements without an η_c.

    Args:
        factor: Positive float. The constant c, 0.25 by default.

    Raises:
        ValueError: If `factor` is not positive.

    Attributes:
        history: The measurements of the last training, a `pandas.DataFrame` with the columns
            ``step``, the number of updates; ``critical_learning_rate``, NaN if the update would
            change nothing; ``learning_rate``, the η of the next update; and ``num_passes``.

    Example:
        ```python
        schedule = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=10_000)
        model.compile(keras.optimizers.AdamW(schedule), loss)
        model.fit(x, y, epochs=10, callbacks=[keras_aeos.CurvatureWarmup()])
        ```

    References:
        The critical learning rate of arXiv:2406.09405 and arXiv:2601.16979.
    """

    def __init__(self, *, factor: float = 0.25) -> None:
        super().__init__()
        constraints.check(factor=factor)
        self.factor = factor
        self._rows: list[dict[str, Any]] = []
        self._optimizer: Any = None
        self._cap: LearningRateCap | None = None
        self._function: training_function.TrainingFunction | None = None
        self._spec: Nest = None
        self._executed = False
        # η of the last update if the warm-up was not over then.
        self._rate: float | None = None

    @property
    def history(self) -> pd.DataFrame:
        """The measurements of the last training."""
        return pd.DataFrame(self._rows, columns=list(_COLUMNS))

    @property
    def _active(self) -> bool:
        return self._cap is not None and not self._cap.over

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; called by `fit` before callbacks restore its weights."""
        super().set_model(model)
        self._detach()
        self._cap = None
        self._attach()

    @never_raises
    def _attach(self) -> None:
        self._optimizer = dynamics.unwrap(self.model.optimizer)
        self._cap = learning_rate_cap.cap_of(self._optimizer)
        self._cap.take_off()  # if the last training ended by an exception
        fixed = isinstance(learning_rate_cap.users(self._optimizer), float)
        if self._active and not fixed:
            self.model.train_function = None  # it may have been traced without a limit

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """See the batches of this training."""
        self._rows, self._spec, self._rate = [], None, None
        self._begin()

    @never_raises
    def _begin(self) -> None:
        if self._active:
            self._function = training_function.observe(self.model, retrace=True)
            self._function.add(self)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Limit the learning rate of the updates that follow."""
        self._executed = False
        self._limit()

    @never_raises
    def _limit(self) -> None:
        self._rate = None
        if self._cap is not None and not self._cap.over:
            self._cap.put_on(self._optimizer)
            self._rate = learning_rate_cap.next_rate(self._optimizer)

    def before_update(self, function: training_function.TrainingFunction) -> None:
        """The limit is there already."""

    def after_update(self) -> None:
        """Give the optimizer its own learning rate again."""
        if self._cap is not None:
            self._cap.take_off()

    def after_batch(self, batch: Any, logs: Any) -> None:
        """Measure, if it is time to."""
        self._executed = True
        self._look(batch)

    @never_raises
    def _look(self, batch: Any) -> None:
        cap = self._cap
        if cap is None or cap.over:
            return
        if batch is None:
            raise ValueError(_UNSEEN)
        step = dynamics.num_updates(self._optimizer)
        if step >= cap.due:
            wanted = learning_rate_cap.next_rate(self._optimizer)
            found = self._measured(batch, cap.critical if cap.critical > 0.0 else wanted)
            cap.allow(found.value, self.factor)
            cap.due = step + 1 + (step - cap.begin) // _SPACING
            row = (step, found.value, min(wanted, cap.limit), found.num_passes)
            self._rows.append(dict(zip(_COLUMNS, row, strict=True)))
            if wanted <= cap.limit:
                self._end()
            elif cap.limit == 0.0 and step - cap.begin >= _PATIENCE:
                size = int(num_rows(batch))
                raise ValueError(_UNKNOWN.format(number=_PATIENCE, size=size))

    def _measured(self, batch: Nest, guess: float) -> CriticalLearningRate:
        """The critical learning rate of the next update, from the halves of a batch."""
        first, second = _halves(batch)
        for half in (first, second):  # batches of several sizes share a trace
            spec = spec_of(half)
            self._spec = spec if self._spec is None else common_spec(self._spec, spec)
        objective = objective_of(self.model, MicroBatches([first], self._spec))
        with full_precision():
            found = of_next_update(objective, MicroBatches([second], self._spec), guess)
        objective.batches.release()  # the model holds the objective
        return found

    def _end(self) -> None:
        """End the warm-up for good."""
        if self._cap is not None:
            self._cap.take_off()
            self._cap.limit = math.inf
        self._detach()

    def _detach(self) -> None:
        if self._function is not None:
            self._function.remove(self)
            self._function = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the learning rate into `logs`."""
        self.after_update()
        if not self._executed:  # by no training function
            self._look(None)
        if logs is not None and self._rate is not None:
            logs[_KEY] = self._rate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the learning rate into `logs`."""
        if logs is not None:
            logs[_KEY] = self._last_rate()

    def _last_rate(self) -> float:
        if self._rate is not None:
            return self._rate
        known = self._cap is not None
        return dynamics.last_learning_rate(self._optimizer) if known else math.nan

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Detach from the model. A warm-up that is not over goes on in the next `fit`."""
        self.after_update()
        self._detach()

    def _stop_measuring(self, error: Exception) -> None:
        self._end()
        warnings.warn(_FAILED.format(kind=type(error).__name__, error=error), stacklevel=2)


def _halves(batch: Nest) -> tuple[Nest, Nest]:
    """The first and the second half of a batch; all of it twice if it can't be cut."""
    size = int(num_rows(batch))
    dense = all(isinstance(part, tf.Tensor) for part in tf.nest.flatten(batch) if part is not None)
    if size < 2 or not dense:
        return batch, batch
    parts = (slice(None, size // 2), slice(size // 2, None))
    first, second = (
        tf.nest.map_structure(lambda t, rows=rows: None if t is None else t[rows], batch)
        for rows in parts
    )
    return first, second
