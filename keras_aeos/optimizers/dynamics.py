"""What the stability theory needs to know about an optimizer, and where it is looked up."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_aeos import stability
from keras_aeos.optimizers.base import PreconditionedOptimizer
from keras_aeos.optimizers.stock import STOCK_DESCRIPTIONS


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """An optimizer's local dynamics ``x⁺ = (1 - ηw) x - η P⁻¹ m⁺``.

    Attributes:
        momentum: How ``m`` follows from gradients, a `keras_aeos.stability.Momentum`.
        weight_decay: Decoupled weight decay w.
        diagonals: Function of no arguments that returns the diagonal of P as it stood in the last
            update: one tensor per variable of the optimizer, of the variable's shape and dtype.
    """

    momentum: stability.Momentum
    weight_decay: float
    diagonals: Callable[[], list[tf.Tensor]]


def describe(optimizer):
    """Look up the `Dynamics` of an optimizer.

    Known are the optimizers of `keras_aeos.optimizers` and, of `keras.optimizers`, those listed in
    `keras_aeos.optimizers.stock`; a subclass counts as its base as long as it keeps the base's
    `update_step`. A `LossScaleOptimizer` is described by the optimizer inside it.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        A `Dynamics`.

    Raises:
        TypeError: If the optimizer's update is not known.
    """
    optimizer = unwrap(optimizer)
    if isinstance(optimizer, PreconditionedOptimizer):
        description = optimizer.momentum_kind(), optimizer.diagonals
    else:
        base: Any
        for base in type(optimizer).__mro__:
            if base in STOCK_DESCRIPTIONS and type(optimizer).update_step is base.update_step:
                description = STOCK_DESCRIPTIONS[base](optimizer)
                break
        else:
            known = ", ".join(sorted(base.__name__ for base in STOCK_DESCRIPTIONS))
            raise TypeError(
                "The preconditioner and the momentum of this optimizer are not known. Expected an "
                f"optimizer of keras_aeos.optimizers or one of keras.optimizers.{{{known}}}. "
                f"Received: optimizer={type(optimizer).__name__}"
            )
    momentum, diagonals = description
    return Dynamics(momentum, float(optimizer.weight_decay or 0.0), diagonals)


def unwrap(optimizer):
    """The optimizer that makes the update: the inner one of a `LossScaleOptimizer`."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def num_updates(optimizer):
    """Number of updates made so far, as an int; accumulated micro-steps count once."""
    return int(keras.ops.convert_to_numpy(unwrap(optimizer).iterations))


def last_learning_rate(optimizer):
    """Learning rate of the last update, as a float.

    A schedule is evaluated at the iteration of the update, not at the next one, which is what
    `optimizer.learning_rate` gives between updates.
    """
    optimizer = unwrap(optimizer)
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        steps_per_update = optimizer.gradient_accumulation_steps or 1
        rate = schedule(max(num_updates(optimizer) * steps_per_update - 1, 0))
    else:
        rate = optimizer.learning_rate
    return float(keras.ops.convert_to_numpy(rate))


def stability_threshold(optimizer):
    """Stability threshold λ* of an optimizer, at the learning rate of its last update.

    With P frozen at its present value, the optimizer diverges on the local quadratic as soon as
    ``λ₁(P⁻¹H)`` exceeds λ*. For Adam with β₁ = 0.9 it is 38/η.

    Args:
        optimizer: An optimizer that `preconditioner` knows.

    Returns:
        λ* as a float.

    Raises:
        TypeError: If the optimizer's update is not known.

    Example:
        >>> round(stability_threshold(keras.optimizers.SGD(0.5)), 6)
        4.0

    References:
        Cohen et al. 2022, Table 1; see `keras_aeos.stability.stability_threshold`.
    """
    dynamics = describe(optimizer)
    return stability.stability_threshold(
        dynamics.momentum, last_learning_rate(optimizer), dynamics.weight_decay
    )


def preconditioner(optimizer):
    """Diagonal of the preconditioner P as it stood in the optimizer's last update.

    P is the positive diagonal matrix with ``x⁺ = x - η P⁻¹ m⁺`` (before weight decay): it
    multiplies like the Hessian, not like its inverse. For Adam with bias correction it is
    ``(1 - β₁ᵗ)(√(ν / (1 - β₂ᵗ)) + ε)``.

    Args:
        optimizer: An optimizer of `keras_aeos.optimizers`, or a stock Keras Adam, AdamW, RMSprop
            or SGD, that has made at least one update.

    Returns:
        List of tensors, one per trainable variable, in the model's order, with the variable's
        shape and dtype.

    Raises:
        TypeError: If the optimizer's update is not known.
        ValueError: If the optimizer has not made an update yet: P is not defined before.

    References:
        Cohen et al. 2022, Section 2 and Equation 2.
    """
    dynamics = describe(optimizer)
    if num_updates(optimizer) == 0:
        raise ValueError(
            "The preconditioner is defined by the last update, and this optimizer has made none. "
            "Train for at least one step first. "
            f"Received: optimizer={type(optimizer).__name__} with iterations=0"
        )
    return dynamics.diagonals()
