"""What an optimizer's clipping does to the gradients of the micro-batches."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.objective import Objective
from keras_aeos.optimizers import base_arguments, dynamics

# Clipping that shortens a gradient by less is rounding; so is a smaller change of its direction.
_ROUNDING = 1e-4


class Clipping:
    """Shares of the gradients that clipping leaves, one for each update.

    Each micro-batch stands for a batch of training. With accumulated gradients an update takes the
    mean of several, in order; a rest that is too small for an update is left out.

    Args:
        objective: The `Objective`; all that the optimizer updates must be its parameters.
        optimizer: Keras optimizer.

    Attributes:
        factors: ``‖clip(g)‖ / ‖g‖`` of each update, 1 where clipping does not act.
        keeps_direction: Whether all clipped gradients are those given times a number.
    """

    def __init__(self, objective: Objective, optimizer: Any) -> None:
        self.factors: list[float] = []
        self.keeps_direction = True
        self._objective = objective
        self._optimizer = optimizer = dynamics.unwrap(optimizer)
        places = {id(variable): place for place, variable in enumerate(objective.variables)}
        trained = [id(variable) for variable in optimizer._trainable_variables]
        # Replicas clip their own parts of the gradient, which are not seen.
        several = objective.model.distribute_strategy.num_replicas_in_sync > 1
        self._order: list[int] | None = None
        if not several and set(trained) == set(places):
            self._order = [places[variable] for variable in trained]
        self._accumulated: list[tf.Tensor] = []
        self._num_accumulated = optimizer.gradient_accumulation_steps or 1

    @property
    def factor(self) -> float:
        """Mean of the factors; NaN if there are none."""
        return float(np.mean(self.factors)) if self.factors else np.nan

    @property
    def frequency(self) -> float:
        """Share of the updates in which clipping acts; NaN if there are none."""
        acting = [factor < 1.0 for factor in self.factors]
        return float(np.mean(acting)) if acting else np.nan

    def visit(self, gradient: tf.Tensor, product: Any) -> None:
        """Take note of the gradient (n,) of a micro-batch."""
        if self._order is None:
            return
        self._accumulated.append(gradient)
        if len(self._accumulated) < self._num_accumulated:
            return
        given = tf.add_n(self._accumulated) / self._num_accumulated
        self._accumulated.clear()
        parts = self._objective.unpack(given)
        ordered = [tf.cast(parts[place], given.dtype) for place in self._order]
        before = _joined(ordered)
        after = _joined(base_arguments.clipped(self._optimizer, ordered))
        size = float(tf.norm(before))
        factor = float(tf.norm(after)) / size if size else 1.0
        self.factors.append(factor if factor < 1.0 - _ROUNDING else 1.0)
        if float(tf.norm(after - factor * before)) > _ROUNDING * factor * size:
            self.keeps_direction = False


def _joined(tensors: list[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
