"""A full batch that stays on the device on which the network trains."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature.device_memory import is_host, room


class ResidentBatch:
    """The micro-batches of a full batch, brought to the device once.

    `fit` is fed the numbers of the micro-batches, and the training step takes these from memory.
    They are the same tensors that a data set would bring, so the training is bit for bit the same.

    Args:
        parts: The inputs and the targets, tensors (micro-batches, size, ...) on the device.

    Attributes:
        numbers: Endless; the numbers of the micro-batches in order, what `fit` is fed.
    """

    def __init__(self, parts: Sequence[tf.Tensor]) -> None:
        self._parts = tuple(parts)
        self.numbers = tf.data.Dataset.range(len(parts[0])).repeat()

    def feed(self, model: keras.Model) -> None:
        """Let a compiled model's training step take numbers, and train on their micro-batches."""

        def make_train_function(force: bool = False) -> None:
            if model.train_function is not None and not force:
                return
            # The step may be another one than the class's: a monitor watches the micro-batches.
            own, step = model.__dict__.get("train_step"), model.train_step
            model.train_step = self._step(step)
            try:
                type(model).make_train_function(model, force=True)
            finally:
                del model.train_step
                if own is not None:
                    model.train_step = own

        model.make_train_function = make_train_function

    def _step(self, step: Callable[[Any], Any]) -> Callable[[tf.Tensor], Any]:
        return lambda number: step(tuple(part[number] for part in self._parts))


def resident(parts: Sequence[tf.Tensor]) -> ResidentBatch | None:
    """The `ResidentBatch` of tensors of the host; None if they don't fit on the device."""
    device = tf.zeros([]).device
    size = sum(part.dtype.size * part.shape.num_elements() for part in parts)
    if not is_host(device) and size > room(device):
        return None
    with tf.device(device):
        return ResidentBatch([tf.identity(part) for part in parts])
