"""What the stability theory needs to know about an optimizer, and where it is looked up."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.optimizers.base import PreconditionedOptimizer


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """An optimizer's local dynamics ``x⁺ = (1 - ηw) x - η P⁻¹ m̃``.

    Attributes:
        momentum: How ``m̃`` follows from gradients: a `keras_aeos.stability.Momentum`, or any
            object whose method ``recurrence(learning_rate, weight_decay)`` returns a
            `keras_aeos.stability.Recurrence`.
        diagonals: Function of no arguments that returns the diagonal of P as it stood in the last
            update: one tensor per variable of the optimizer, of the variable's shape and dtype.
        learning_rate: η in the last update; None for what the optimizer's `learning_rate` was then.
        weight_decay: Decoupled weight decay w; None for the optimizer's `weight_decay`. With
            variables that are excluded from it the threshold is a lower bound, too low by a
            relative ηw/2 at most.
        approximation: In what the description departs from the update; empty if it is exact.
    """

    momentum: Any
    diagonals: Callable[[], list[tf.Tensor]]
    learning_rate: float | None = None
    weight_decay: float | None = None
    approximation: str = ""

    def stability_threshold(self):
        """λ* as a float."""
        return self.momentum.recurrence(self.learning_rate, self.weight_decay).stability_threshold()


_DESCRIPTIONS: dict[type, Callable[[Any], Dynamics]] = {}


def register_dynamics(optimizer_type):
    """Make an optimizer known to the monitor; a decorator for the function that describes it.

    The function is called with an optimizer of the type (or of a subclass that keeps its
    `update_step`) and returns its `Dynamics`. It may be called before the optimizer is built.
    Registering a type again replaces its description.

    Args:
        optimizer_type: A subclass of `keras.optimizers.Optimizer`.

    Returns:
        A decorator that registers a function and returns it unchanged.

    Raises:
        TypeError: If `optimizer_type` is not a class of Keras optimizers.

    Example:
        Momentum on quarter gradients, hence ``P = 4``:

        >>> from keras_aeos import stability
        >>> class Quarter(keras.optimizers.SGD):
        ...     def update_step(self, gradient, variable, learning_rate):
        ...         super().update_step(gradient / 4.0, variable, learning_rate)
        >>> @register_dynamics(Quarter)
        ... def quarter_dynamics(optimizer):
        ...     return Dynamics(
        ...         momentum=stability.Momentum.heavy_ball(optimizer.momentum),
        ...         diagonals=lambda: [tf.fill(m.shape, 4.0) for m in optimizer.momentums],
        ...     )
        >>> round(stability_threshold(Quarter(0.5, momentum=0.9)), 6)
        7.6
    """
    if not (
        isinstance(optimizer_type, type) and issubclass(optimizer_type, keras.optimizers.Optimizer)
    ):
        raise TypeError(
            "Expected a subclass of keras.optimizers.Optimizer. "
            f"Received: optimizer_type={optimizer_type!r}"
        )

    def register(function):
        _DESCRIPTIONS[optimizer_type] = function
        return function

    return register


@register_dynamics(PreconditionedOptimizer)
def _preconditioned_dynamics(optimizer):
    return Dynamics(optimizer.momentum(), optimizer.diagonals)


def describe(optimizer):
    """Look up the `Dynamics` of an optimizer, with learning rate and weight decay filled in.

    Known are the optimizers of `keras_aeos.optimizers`, those of `keras.optimizers` in
    `keras_aeos.optimizers.stock`, and what `register_dynamics` adds; a subclass counts as its base
    as long as it keeps the base's `update_step`. A `LossScaleOptimizer` is described by the
    optimizer inside it.

    Args:
        optimizer: A Keras optimizer.

    Returns:
        A `Dynamics`.

    Raises:
        TypeError: If the optimizer's update is not known, or is not of the form.
    """
    optimizer = unwrap(optimizer)
    base: Any
    for base in type(optimizer).__mro__:
        if base in _DESCRIPTIONS and type(optimizer).update_step is base.update_step:
            break
    else:
        raise TypeError(
            "The preconditioner and the momentum of this optimizer are not known. Expected an "
            "optimizer of keras_aeos.optimizers or keras.optimizers; describe any other with "
            "keras_aeos.register_dynamics. "
            f"Received: optimizer={type(optimizer).__name__}"
        )
    dynamics = _DESCRIPTIONS[base](optimizer)
    given = {}
    if dynamics.learning_rate is None:
        given["learning_rate"] = last_learning_rate(optimizer)
    if dynamics.weight_decay is None:
        given["weight_decay"] = _weight_decay(optimizer)
    return dataclasses.replace(dynamics, **given)


def unwrap(optimizer):
    """The optimizer that makes the update: the inner one of a `LossScaleOptimizer`."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def num_updates(optimizer):
    """Number of updates made so far, as an int; accumulated micro-steps count once."""
    return int(keras.ops.convert_to_numpy(unwrap(optimizer).iterations))


def last_learning_rate(optimizer):
    """Learning rate of the last update, as a float; NaN for an optimizer that has several.

    A schedule is evaluated at the iteration of the update, not at the next one, which is what
    `optimizer.learning_rate` gives between updates.
    """
    optimizer = unwrap(optimizer)
    if hasattr(optimizer, "optimizers"):
        return math.nan
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
        TypeError: If the optimizer's update is not known, or is not of the form.

    Example:
        >>> round(stability_threshold(keras.optimizers.SGD(0.5)), 6)
        4.0

    References:
        Cohen et al. 2022, Table 1; see `keras_aeos.stability`.
    """
    return describe(optimizer).stability_threshold()


def preconditioner(optimizer):
    """Diagonal of the preconditioner P as it stood in the optimizer's last update.

    P is the positive diagonal matrix with ``x⁺ = x - η P⁻¹ m̃`` (before weight decay): it
    multiplies like the Hessian, not like its inverse. For Adam with bias correction it is
    ``(1 - β₁ᵗ)(√(ν / (1 - β₂ᵗ)) + ε)``.

    Args:
        optimizer: An optimizer of `keras_aeos.optimizers`, a stock Keras optimizer whose update is
            of the form, or one that `keras_aeos.register_dynamics` describes; it must have made at
            least one update.

    Returns:
        List of tensors, one per trainable variable, in the model's order, with the variable's
        shape and dtype.

    Raises:
        TypeError: If the optimizer's update is not known, or is not of the form.
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


def _weight_decay(optimizer):
    """Decoupled weight decay, 0 if every variable is excluded from it."""
    if not optimizer.weight_decay:
        return 0.0
    variables = optimizer._trainable_variables
    if variables and not any(optimizer._use_weight_decay(v) for v in variables):
        return 0.0
    return float(optimizer.weight_decay)
