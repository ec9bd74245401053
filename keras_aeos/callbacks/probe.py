"""What one `fit` feeds to a model and how it updates it, seen without touching either."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.callbacks.learning_rate_cap import Capped
from keras_aeos.callbacks.training_function import TrainingFunction
from keras_aeos.curvature.batches import num_rows
from keras_aeos.curvature.loss import training_loss
from keras_aeos.optimizers import dynamics

# Relative difference of two losses from which on they are different functions.
_DIFFERENT = {"float16": 5e-2, "bfloat16": 5e-2}
_DIFFERENT_OTHERWISE = 1e-3


class FitProbe:
    """A `Listener` to the training function, for one `fit`.

    Args:
        num_examples: Batches are gathered up to the one that reaches this number.
        model: The model.
        optimizer: The optimizer whose updates are measured; None if there is none.
        own_step: Whether the model has a `train_step` of its own. Then the loss that it logs for
            the first batch is compared with that of `compile`.

    Attributes:
        batches: The batches ``(x, y, sample_weight)`` gathered.
        learning_rate: η of the last update that was due, a tensor; None if there was none.
        before: Values of the trainable variables before it; None if they weren't to be kept.
        batch_size: Number of examples of the first batch; None before it.
        confirmed: Whether the loss of `compile` is that of the training step; None if not known.
    """

    def __init__(
        self,
        num_examples: int,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        own_step: bool,
    ) -> None:
        self.batches: list[Any] = []
        self.learning_rate: tf.Tensor | None = None
        self.before: list[tf.Tensor] | None = None
        self.confirmed: bool | None = None if own_step else True
        self.batch_size: int | None = None
        self._num_missing = num_examples
        self._model = model
        self._optimizer = optimizer
        self._state: list[tuple[keras.Variable, tf.Tensor]] = []
        self._expected = self._due = self._executed = False
        self._function: TrainingFunction | None = None

    def attach(self, function: TrainingFunction) -> None:
        """Listen to a training function."""
        self._function = function
        function.add(self)

    def detach(self) -> None:
        """Listen no longer."""
        if self._function is not None:
            self._function.remove(self)
            self._function = None

    def finish(self) -> None:
        """End gathering, however many examples there are."""
        self._num_missing = 0

    def expect(self, due: bool, variables: Sequence[keras.Variable] | None) -> None:
        """`fit`, or a loop that calls no training function, is about to train a batch.

        Args:
            due: Whether a measurement follows. Then the learning rate is noted.
            variables: Variables whose values to keep; None for none.
        """
        self._expected, self._due = True, due
        self._kept_variables = variables
        if not self._executed:
            self._note()

    def before_update(self, function: TrainingFunction) -> None:
        """Note what the update will change."""
        if not self._expected:  # the `fit` has ended without saying so, as by an exception
            function.remove(self)
            return
        self._expected, self._executed = False, True
        self._note()
        if self.confirmed is None and not self.batches:
            self._state = [(v, tf.identity(v.value)) for v in self._model.variables]

    def _note(self) -> None:
        if self._due:
            self.learning_rate = _present_learning_rate(self._optimizer)
            self.before = None
            if self._kept_variables is not None:
                self.before = [tf.identity(v.value) for v in self._kept_variables]

    def after_update(self) -> None:
        """Nothing is undone."""

    def after_batch(self, batch: Any, logs: Any) -> None:
        """Gather a batch."""
        if batch is None:
            return
        if self.batch_size is None:
            self.batch_size = int(num_rows(batch))
        if self._num_missing <= 0:
            return
        self.batches.append(batch)
        self._num_missing -= int(num_rows(batch))
        if self.confirmed is None:
            self.confirmed = self._is_loss_of_compile(batch, logs)
            self._state = []

    def _is_loss_of_compile(self, batch: Any, logs: Any) -> bool:
        reported = logs.get("loss") if isinstance(logs, dict) else None
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        if reported is None or several or self._model.steps_per_execution > 1:
            return False
        state = self._state
        # A traced function leaves the global random generator alone.
        loss = tf.function(lambda: training_loss(self._model, batch, state), autograph=False)
        try:
            expected = float(loss.get_concrete_function()())
        except Exception:  # a model without a loss or a call of its own fails in any way
            return False
        different = _DIFFERENT.get(str(self._model.compute_dtype), _DIFFERENT_OTHERWISE)
        return abs(float(reported) - expected) <= different * abs(expected)


def _present_learning_rate(optimizer: keras.optimizers.Optimizer | None) -> tf.Tensor | None:
    """The learning rate that the next update will use; None if the user's schedule gives it."""
    if optimizer is None:
        return None
    optimizer = dynamics.unwrap(optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, Capped):
        return tf.convert_to_tensor(optimizer.learning_rate)
    return tf.identity(rate.value) if isinstance(rate, keras.Variable) else None
