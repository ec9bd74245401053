"""The smallest learning rate at which an update raises the loss, from forward passes alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import MicroBatches, from_data
from keras_aeos.curvature.eigenpairs import objective_of
from keras_aeos.curvature.first_rise import first_rise
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.precision import full_precision


@dataclasses.dataclass(frozen=True)
class CriticalLearningRate:
    """The critical learning rate of an update, and what its forward passes say beside it.

    Attributes:
        value: η_c; 0 if the loss rises from the start, infinite if it doesn't rise within a million
            times the first guess, NaN if the loss is not finite where the update begins.
        directional_sharpness: ``dᵀHd / -dᵀ∇f``, from the parabola through the points nearest to the
            start; NaN if the loss does not fall there. On a parabola it is ``2/η_c``.
        num_passes: Forward passes over all examples.
        converged: Whether the last two estimates agree well enough for an error of about 3%.
    """

    value: float
    directional_sharpness: float
    num_passes: int
    converged: bool


def critical_learning_rate(
    model: keras.Model,
    data: Any,
    direction: Sequence[tf.Tensor] | None = None,
    *,
    batch_size: int | None = None,
) -> CriticalLearningRate:
    """Smallest learning rate at which a step from the model's parameters raises the loss.

        η_c = min{η > 0 : f(x + η d) > f(x)}

    The loss f is that of `compile` in training mode, over all of `data`, with dropout and
    augmentation the same in every pass. No second derivative is taken, so any layer will do. Most
    searches take four forward passes or fewer, the first of them at the optimizer's learning rate.
    Nothing of the model or the optimizer is changed.

    Args:
        model: A built and compiled Keras model.
        data: The examples, as for `top_eigenpairs`.
        direction: List of tensors or None. The direction d, one tensor per trainable variable, of
            its shape: the change of the parameters per unit of the learning rate, such as -∇f. None
            (default) for that of the update which the optimizer of `compile` would make next, with
            the gradient of `data`.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.

    Returns:
        A `CriticalLearningRate`.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If the model is not built or compiled; if `direction` does not match its
            variables or is zero; if it is None and there is no optimizer, or a strategy with
            several workers; or if `batch_size` is out of range.

    Example:
        The loss ``9 x²`` of a single weight falls along -∇f as far as 2/18.

        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(0.01), loss="mse")
        >>> data = np.full((4, 1), 3.0), np.zeros((4, 1))
        >>> round(critical_learning_rate(model, data).value, 3)
        0.111

    References:
        The critical sharpness 2/η_c of arXiv:2601.16979.
    """
    objective = objective_of(model, from_data(data, batch_size))
    with full_precision():
        if direction is None:
            direction = _next_update(objective)
        _check_direction(objective, direction)
        start = [tf.convert_to_tensor(v.value) for v in objective.variables]
        found = _search(objective, start, direction, _learning_rate(model.optimizer))
    objective.batches.release()  # the model holds the objective
    return found


class CriticalLearningRates:
    """The critical learning rates of updates that follow each other, each sought near the last."""

    def __init__(self) -> None:
        self._guess = math.nan

    def measure(
        self, objective: Objective, before: Sequence[tf.Tensor], learning_rate: float
    ) -> CriticalLearningRate:
        """That of the last update, from the parameters before it and along it.

        Args:
            objective: The `Objective`, at the parameters after the update.
            before: Values of its variables before the update.
            learning_rate: η of the update.

        Returns:
            A `CriticalLearningRate`; NaN after no passes, without an update or its η.
        """
        unknown = CriticalLearningRate(math.nan, math.nan, 0, False)
        if not learning_rate > 0.0 or len(before) != len(objective.variables):
            return unknown
        dtype = objective.dtype
        update = [
            (tf.cast(v.value, dtype) - tf.cast(b, dtype)) / tf.cast(learning_rate, dtype)
            for v, b in zip(objective.variables, before, strict=True)
        ]
        if not any(bool(tf.reduce_any(part != 0)) for part in update):
            return unknown
        known = self._guess > 0.0 and math.isfinite(self._guess)
        found = _search(objective, before, update, self._guess if known else learning_rate)
        self._guess = found.value if found.converged else math.nan
        return found


def of_next_update(
    objective: Objective, others: MicroBatches, guess: float
) -> CriticalLearningRate:
    """That of the update which the optimizer would make next, for the loss of other examples.

    Args:
        objective: The `Objective`, with the examples of the gradient.
        others: Those of the loss, of the same spec.
        guess: Where to look first.

    Returns:
        A `CriticalLearningRate`; NaN after no passes if the update changes nothing.
    """
    direction = _next_update(objective)
    if not any(bool(tf.reduce_any(d != 0)) for d in direction):
        return CriticalLearningRate(math.nan, math.nan, 0, False)
    objective.batches = others
    start = [tf.convert_to_tensor(v.value) for v in objective.variables]
    return _search(objective, start, direction, guess)


def _search(
    objective: Objective,
    start: Sequence[tf.Tensor],
    direction: Sequence[tf.Tensor],
    guess: float,
) -> CriticalLearningRate:
    loss = objective.first_order.loss_along(objective.batches, start, direction)
    found = first_rise(loss, guess)
    return CriticalLearningRate(
        found.value, found.curvature, found.num_evaluations, found.converged
    )


def _check_direction(objective: Objective, direction: Sequence[tf.Tensor]) -> None:
    shapes = [tuple(d.shape) for d in direction]
    expected = [tuple(v.shape) for v in objective.variables]
    if shapes != expected:
        raise ValueError(
            "`direction` must have one tensor per trainable variable, of its shape. "
            f"Expected: shapes {expected}. Received: shapes {shapes}"
        )
    if not any(bool(tf.reduce_any(tf.convert_to_tensor(d) != 0)) for d in direction):
        raise ValueError(
            "Along a zero direction the loss does not change. Pass another `direction`; None does "
            "not work for an optimizer that only adds up gradients in its next update. "
            "Received: a direction of zeros"
        )


def _learning_rate(optimizer: keras.optimizers.Optimizer | None) -> float:
    rate = math.nan if optimizer is None else float(tf.convert_to_tensor(optimizer.learning_rate))
    return rate if rate > 0.0 else 1.0


def _next_update(objective: Objective) -> list[tf.Tensor]:
    """What the optimizer would do next with the gradient of all examples, per unit of η."""
    optimizer = objective.model.optimizer
    if optimizer is None or objective.replicas.of_workers:
        why = "no optimizer" if optimizer is None else "a strategy with several workers"
        raise ValueError(
            "Without `direction` the next update of the optimizer is tried, in one process. "
            f"Pass `direction`. Received: direction=None and a model with {why}"
        )
    gradients = objective.first_order.gradient(objective.batches)
    variables = objective.variables
    if not optimizer.built:
        with objective.model.distribute_strategy.scope():
            optimizer.build(variables)
    rate = _learning_rate(optimizer)
    saved = {id(v): (v, tf.identity(v.value)) for v in (*optimizer.variables, *variables)}
    before = [saved[id(v)][1] for v in variables]
    try:
        _apply(objective, gradients)
        return [
            (tf.cast(v.value, objective.dtype) - tf.cast(b, objective.dtype)) / rate
            for v, b in zip(variables, before, strict=True)
        ]
    finally:
        for variable, value in saved.values():
            variable.assign(value)


def _apply(objective: Objective, gradients: list[tf.Tensor]) -> None:
    """Apply gradients until there is an update: an optimizer may add up several before it."""
    optimizer, strategy = objective.model.optimizer, objective.model.distribute_strategy

    def apply() -> None:
        # It sums up the replicas, and the loss of each is divided by their number.
        optimizer.apply(gradients, objective.variables)

    begin = int(tf.convert_to_tensor(optimizer.iterations))
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for _ in range(inner.gradient_accumulation_steps or 1):
        apply() if objective.replicas.alone else strategy.run(apply)
        if int(tf.convert_to_tensor(optimizer.iterations)) != begin:
            return
