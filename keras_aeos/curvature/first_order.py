"""Loss and gradient of an objective where no second derivative is asked for."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import MicroBatches, flatten, num_rows, unflatten
from keras_aeos.curvature.replicas import Replicas

# Maps parameters, the number of a micro-batch, and its x, y and sample weights to a loss.
Loss = Callable[[list[tf.Tensor], tf.Tensor, Any, Any, Any], tf.Tensor]


class FirstOrder:
    """The loss along a line, by forward passes alone, and its gradient as training computes it.

    Every loss that can be trained has both, whatever its second derivatives.

    Args:
        loss: The loss of a micro-batch, without side effects.
        loss_and_gradient: Function ``(parameters, index, leaves)`` that returns its number of
            examples, its loss, and its gradients, multiplied by the optimizer's loss scale.
        variables: The parameters.
        spec: The `spec` of the micro-batches.
        replicas: The `Replicas` that share the work.
        dtype: Type in which points of a line are computed.
    """

    def __init__(
        self,
        loss: Loss,
        loss_and_gradient: Callable[..., tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]],
        variables: Sequence[keras.Variable],
        spec: Any,
        replicas: Replicas,
        dtype: tf.DType,
    ) -> None:
        self._loss = loss
        self._spec = spec
        self._replicas = replicas
        self._dtype = dtype
        parameters = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
        wide = [tf.TensorSpec(v.shape, dtype) for v in variables]
        batch = [tf.TensorSpec([], tf.int64), *flatten(spec)]
        self._along = tf.function(
            self._loss_along,
            input_signature=[parameters, wide, tf.TensorSpec([], dtype), *batch],
            autograph=False,
        )
        self._gradient = tf.function(
            lambda parameters, index, *leaves: loss_and_gradient(parameters, index, leaves),
            input_signature=[parameters, *batch],
            autograph=False,
        )

    def loss_along(
        self, batches: MicroBatches, start: Sequence[tf.Tensor], direction: Sequence[tf.Tensor]
    ) -> Callable[[float], float]:
        """The function ``η -> f(x + η d)``; each call is one forward pass over all examples.

        Args:
            batches: The micro-batches.
            start: The parameters x, one tensor for each variable.
            direction: The direction d, the same.
        """
        start = list(start)
        wide = [tf.cast(d, self._dtype) for d in direction]

        def loss(learning_rate: float) -> float:
            sums = self._replicas.together(lambda: evaluate(learning_rate))
            number, total = self._replicas.total(sums)
            return total / number

        def evaluate(learning_rate: float) -> list[float]:
            factor = tf.constant(learning_rate, self._dtype)
            parts = []
            for replica, batch in self._shares(batches):
                with self._replicas.on(replica):
                    parts.append(self._along(start, wide, factor, *batch))
            return [
                float(sum(float(count) for count, _ in parts)),
                float(sum(float(count) * float(value) for count, value in parts)),
            ]

        return loss

    def gradient(self, batches: MicroBatches) -> list[tf.Tensor]:
        """The gradients at the present parameters, multiplied by the optimizer's loss scale.

        Args:
            batches: The micro-batches, all of them in this process.
        """
        parameters = self._replicas.parameters()
        number = 0.0
        total: list[tf.Tensor] = []
        for replica, batch in self._shares(batches):
            with self._replicas.on(replica):
                count, _, parts = self._gradient(parameters[replica], *batch)
                weighted = [tf.cast(count, part.dtype) * part for part in parts]
            total = list(map(operator.add, total, weighted)) if total else weighted
            number += float(count)
        return [part / tf.cast(number, part.dtype) for part in total]

    def _loss_along(
        self,
        start: list[tf.Tensor],
        direction: list[tf.Tensor],
        factor: tf.Tensor,
        index: tf.Tensor,
        *leaves: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x, y, sample_weight = unflatten(self._spec, leaves)
        moved = [
            tf.cast(tf.cast(p, self._dtype) + factor * d, p.dtype)
            for p, d in zip(start, direction, strict=True)
        ]
        return num_rows(x), self._loss(moved, index, x, y, sample_weight)

    def _shares(self, batches: MicroBatches) -> Iterator[tuple[int, list[tf.Tensor]]]:
        """The micro-batches of this process: the device of each, its number and its leaves."""
        for number, leaves in batches.on(self._replicas.places, 0):
            replica = self._replicas.index(number)
            with self._replicas.on(replica):
                index = tf.constant(number, tf.int64)
            yield replica, [index, *leaves]
