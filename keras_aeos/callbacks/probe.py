"""The batches that `fit` feeds, seen without touching them."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import flatten, unflatten


class FitProbe:
    """The first training batches of a `fit`, gathered until there are enough examples.

    `fit` owns its iterator, so the batches are seen where they are used. The training function that
    Keras makes for the model returns the batch beside its logs, and only the logs are passed on.
    With several steps per execution the last batch of each execution is seen; under a strategy,
    the share of the first replica.

    Args:
        num_examples: Gathering ends with the batch that reaches this number.
    """

    def __init__(self, num_examples: int) -> None:
        self.batches: list[Any] = []
        self._num_missing = num_examples

    def finish(self) -> None:
        """End gathering, however many examples there are."""
        self._num_missing = 0

    def attach(self, model: keras.Model) -> None:
        """Have the model make an observed training function; `detach` undoes it."""
        self.detach(model)
        if self._num_missing <= 0:
            return

        def make_train_function(force: bool = False) -> None:
            if model.train_function is None or force:
                model.train_function = self._observed(model)

        model.make_train_function = make_train_function
        model.train_function = None

    @staticmethod
    def detach(model: keras.Model) -> None:
        """Give the model its own training function back; Keras makes it for the next `fit`."""
        maker = model.__dict__.get("make_train_function")
        if getattr(maker, "__module__", None) == __name__:
            del model.make_train_function
            model.train_function = None

    def _observed(self, model: keras.Model) -> Callable[[Iterator], Any]:
        """Keras' training function for the model, observed."""
        structure: Any = None

        def train_step(data: Any) -> tuple[Any, tuple[tf.Tensor, ...]]:
            nonlocal structure
            batch = keras.utils.unpack_x_y_sample_weight(data)
            structure = tf.nest.map_structure(lambda leaf: leaf is not None or None, batch)
            return unobserved_step(data), tuple(flatten(batch))

        own_step = model.__dict__.get("train_step")
        unobserved_step = model.train_step
        model.train_step = train_step
        try:
            type(model).make_train_function(model, force=True)
        finally:
            del model.train_step
            if own_step is not None:
                model.train_step = own_step
        function = model.train_function

        def train_function(iterator: Iterator) -> Any:
            logs, leaves = function(iterator)
            if self._num_missing > 0:
                self.batches.append(unflatten(structure, leaves))
                self._num_missing -= int(tf.shape(leaves[0])[0])
            return logs

        return train_function
