"""An upper limit of an optimizer's learning rate, put on while it trains and taken off after."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.optimizers import dynamics

# Name of the attribute that keeps an optimizer's cap.
_ATTRIBUTE = "_keras_aeos_learning_rate_cap"
# In place of an infinite critical learning rate.
_LARGEST = 1e30
_SAVED = ("limit", "critical", "begin", "due")


class Capped(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that is nowhere above a limit.

    Args:
        schedule: A `LearningRateSchedule`, or a function without arguments.
        limit: A variable; it may change without a new trace.
    """

    def __init__(self, schedule: Any, limit: tf.Variable) -> None:
        self._schedule, self._limit = schedule, limit

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate of the update after `step` updates."""
        rate = tf.convert_to_tensor(_scheduled(self._schedule, step))
        return tf.minimum(rate, tf.cast(self._limit, rate.dtype))

    def get_config(self) -> dict[str, Any]:
        """The configuration of the user's schedule."""
        return self._schedule.get_config()


class LearningRateCap(keras.Loss):
    """An upper limit of an optimizer's learning rate, and when it is to be set again.

    Between executions of the training function the optimizer has the learning rate of its user:
    that is what other callbacks see and change, and what is saved. `put_on` lets it have no more
    than the limit, until `take_off`. The trace of a training function that was made in between
    holds without a limit, too.

    An optimizer keeps its cap. Keras saves and loads the numbers beside the weights, because the
    cap is an attribute of the optimizer that has variables of its own, as a loss may.

    Args:
        optimizer: The optimizer that makes the updates.

    Attributes:
        limit: The limit; infinite if there is none any more, 0 at first.
        critical: The last critical learning rate; NaN before there is one.
        begin: Number of updates before the first one with a limit.
        due: Number of updates after which the limit is set again.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__(name="learning_rate_cap")
        with tf.init_scope():
            self._variable = tf.Variable(np.inf, trainable=False, dtype=tf.float32)
        # What the optimizer has in place of the user's learning rate, and that one.
        self._replaced: tuple[keras.optimizers.Optimizer, Any] | None = None
        self.limit, self.critical = 0.0, np.nan
        self.begin = int(dynamics.num_updates(optimizer))
        self.due = self.begin + 1

    @property
    def over(self) -> bool:
        """Whether there is no limit any more."""
        return np.isinf(self.limit)

    def allow(self, critical: float, factor: float) -> None:
        """Raise the limit to a part of a critical learning rate, if that is more.

        Args:
            critical: The critical learning rate; may be infinite, 0 and NaN.
            factor: The part.
        """
        if critical > 0.0:
            self.critical = min(critical, _LARGEST)
            self.limit = max(self.limit, factor * self.critical)

    def put_on(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Have the optimizer use no more than the limit."""
        self.take_off()
        own = users(optimizer)
        self._replaced = optimizer, own
        self._variable.assign(self.limit)
        if isinstance(own, float):
            optimizer.learning_rate = min(own, self.limit)
        else:
            optimizer.learning_rate = Capped(own, self._variable)

    def take_off(self) -> None:
        """Give the optimizer the user's learning rate again, if it has another one."""
        if self._replaced is not None:
            optimizer, own = self._replaced
            optimizer.learning_rate = own
            self._variable.assign(np.inf)
            self._replaced = None

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Save the numbers; called by Keras."""
        for name in _SAVED:
            store[name] = np.array(getattr(self, name))

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Take up saved numbers, if there are any; called by Keras."""
        if all(name in store.keys() for name in _SAVED):  # noqa: SIM118 - not every store iterates
            for name in _SAVED:
                setattr(self, name, np.asarray(store[name]).item())


def cap_of(optimizer: keras.optimizers.Optimizer) -> LearningRateCap:
    """The cap of an optimizer that makes updates, a new one if it has none."""
    known = vars(optimizer).get(_ATTRIBUTE)
    if known is None:
        known = LearningRateCap(optimizer)
        object.__setattr__(optimizer, _ATTRIBUTE, known)  # past TensorFlow's tracking
    return known


def forget(optimizer: keras.optimizers.Optimizer) -> None:
    """Have the next `cap_of` make a new cap."""
    vars(optimizer).pop(_ATTRIBUTE, None)


def users(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate as the user gave it: a float, a schedule or a function."""
    rate = optimizer._learning_rate
    return _number(rate) if isinstance(rate, keras.Variable) else rate


def next_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the next update."""
    return _number(optimizer.learning_rate)


def _number(value: Any) -> float:
    return float(tf.convert_to_tensor(value))


def _scheduled(schedule: Any, step: Any) -> Any:
    is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
    return schedule(step) if is_schedule else schedule()
