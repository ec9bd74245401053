"""The description of an optimizer that the stability theory needs, and its registry."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf

from keras_aeos.optimizers import base_arguments
from keras_aeos.optimizers.base import PreconditionedOptimizer


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """An optimizer's local dynamics ``x⁺ = (1 - ηw) x - η P⁻¹ m̃``.

    Attributes:
        momentum: `keras_aeos.stability.Momentum`, which turns gradients into ``m̃``. Or any object
            whose method ``recurrence(learning_rate, weight_decay)`` returns a
            `keras_aeos.stability.Recurrence`.
        diagonals: Callable without arguments. Returns the diagonal of P in the last update: one
            tensor per variable of the optimizer, with the variable's shape and dtype (float32 if
            that is half precision).
        learning_rate: Float or None. Learning rate η of the last update; None (default) means the
            optimizer's `learning_rate` in that update.
        weight_decay: Float or None. Decoupled weight decay w; None (default) means the optimizer's
            `weight_decay`.
        approximation: String. How the description differs from the update; empty (default) if it
            is exact.
    """

    momentum: Any
    diagonals: Callable[[], list[tf.Tensor]]
    learning_rate: float | None = None
    weight_decay: float | None = None
    approximation: str = ""

    def stability_threshold(self) -> float:
        """Stability threshold λ*."""
        return self._recurrence().stability_threshold()

    def mean_square_threshold(self, noise: float) -> float:
        """Stability threshold in mini-batches, with a relative noise σ² of the curvature.

        See `keras_aeos.stability.Recurrence.mean_square_threshold`.
        """
        return self._recurrence().mean_square_threshold(noise)

    def _recurrence(self) -> Any:
        return self.momentum.recurrence(self.learning_rate, self.weight_decay)


Description = TypeVar("Description", bound=Callable[[Any], Dynamics])
RateDescription = TypeVar("RateDescription", bound=Callable[[Any, float], Dynamics])

# By type: the description, and whether it takes the learning rate of the last update as well.
_DESCRIPTIONS: dict[type, tuple[Callable[..., Dynamics], bool]] = {}


def register_dynamics(optimizer_type: type) -> Callable[[Description], Description]:
    """Decorate a function that describes a type of optimizer to the monitor.

    The function receives an optimizer of this type, or of a subclass that keeps its `update_step`,
    and returns its `Dynamics`. It may be called before the optimizer is built. Registering a type
    again replaces its description.

    Args:
        optimizer_type: Type. A subclass of `keras.optimizers.Optimizer`.

    Returns:
        A decorator that registers a function and returns it unchanged.

    Raises:
        TypeError: If `optimizer_type` is not a subclass of `keras.optimizers.Optimizer`.

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
            "Dynamics are registered for a class. Pass a subclass of keras.optimizers.Optimizer. "
            f"Received: optimizer_type={optimizer_type!r}"
        )

    def register(function: Description) -> Description:
        _DESCRIPTIONS[optimizer_type] = (function, False)
        return function

    return register


def register_with_rate(optimizer_type: type) -> Callable[[RateDescription], RateDescription]:
    """Decorate a description whose P depends on the learning rate of the last update.

    The function receives the optimizer and that rate.
    """

    def register(function: RateDescription) -> RateDescription:
        _DESCRIPTIONS[optimizer_type] = (function, True)
        return function

    return register


@register_dynamics(PreconditionedOptimizer)
def _preconditioned_dynamics(optimizer: PreconditionedOptimizer) -> Dynamics:
    return Dynamics(optimizer.momentum(), optimizer.diagonals)


def describe(optimizer: keras.optimizers.Optimizer, learning_rate: float | None = None) -> Dynamics:
    """Look up the `Dynamics` of an optimizer, with learning rate and weight decay filled in.

    Descriptions exist for the optimizers of `keras_aeos.optimizers` and of `keras.optimizers` (see
    `keras_aeos.optimizers.stock`), and for types added by `register_dynamics`.
    A subclass shares the description of its base if it keeps the base's `update_step`. A
    `LossScaleOptimizer` is described by its inner optimizer.

    Overwriting by a moving average after each update and variables without weight decay are
    accounted for. `Dynamics.approximation` names what is not: clipping, constraints, rarer
    overwriting, methods that a subclass overrides.

    Args:
        optimizer: A Keras optimizer.
        learning_rate: Float or None. Learning rate η of the last update; None (default) or NaN for
            `last_learning_rate`, which is wrong if the rate was changed after the update. Without
            effect on a `MultiOptimizer`, which has several.

    Returns:
        A `Dynamics`.

    Raises:
        TypeError: If `optimizer` is not a Keras optimizer, or its update is unknown or does not
            have the form of `Dynamics`.
    """
    optimizer = unwrap(optimizer)
    base: Any
    for base in type(optimizer).__mro__:
        if base in _DESCRIPTIONS and type(optimizer).update_step is base.update_step:
            break
    else:
        raise TypeError(
            "The preconditioner and momentum of this optimizer are unknown. Expected an optimizer "
            "of keras_aeos.optimizers or keras.optimizers. Describe any other optimizer with "
            "keras_aeos.register_dynamics. "
            f"Received: optimizer={type(optimizer).__name__}"
        )
    if any(getattr(v, "overwrite_with_gradient", False) for v in optimizer._trainable_variables):
        raise TypeError(
            "Some variables are not trained by the optimizer: their gradient is their next value, "
            "as for the scales of float8 layers. They have no preconditioner. Train in another "
            f"precision. Received: optimizer={type(optimizer).__name__}"
        )
    if learning_rate is None or math.isnan(learning_rate):
        learning_rate = last_learning_rate(optimizer)
    description, takes_rate = _DESCRIPTIONS[base]
    dynamics = description(optimizer, learning_rate) if takes_rate else description(optimizer)
    if hasattr(optimizer, "optimizers"):
        # The parts have been described with what is set in each of them.
        return dynamics
    given: dict[str, Any] = {}
    if dynamics.learning_rate is None:
        given["learning_rate"] = learning_rate
    if dynamics.weight_decay is None:
        given["weight_decay"] = base_arguments.weight_decay(optimizer)
    dynamics = dataclasses.replace(dynamics, **given)
    made = num_updates(optimizer)
    if not takes_rate:
        dynamics = base_arguments.with_overwriting(dynamics, optimizer, made)
    dynamics = base_arguments.with_exclusions(dynamics, optimizer)
    differences = base_arguments.differences(dynamics, optimizer, base, made, takes_rate)
    named = [dynamics.approximation] if dynamics.approximation else []
    return dataclasses.replace(dynamics, approximation=" ".join(named + differences))


def unwrap(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that makes the update; for a `LossScaleOptimizer`, its inner optimizer.

    Raises:
        TypeError: If `optimizer` is not a Keras optimizer.
    """
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        remedy = "Compile the model with one." if optimizer is None else "Pass `model.optimizer`."
        raise TypeError(
            f"Expected an optimizer of Keras 3, a keras.optimizers.Optimizer. {remedy} "
            f"Received: optimizer={optimizer!r} of type {type(optimizer).__name__}"
        )
    return optimizer


def num_updates(optimizer: keras.optimizers.Optimizer) -> int:
    """Number of updates so far; accumulated micro-steps count as one update."""
    optimizer = unwrap(optimizer)
    parts = [part for part in getattr(optimizer, "optimizers", []) if part.built]
    # A MultiOptimizer counts micro-steps.
    return max(int(keras.ops.convert_to_numpy(o.iterations)) for o in parts or [optimizer])


def last_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Learning rate of the last update; NaN for an optimizer that has several.

    A schedule is evaluated at the iteration of that update. Between updates,
    `optimizer.learning_rate` already gives the rate of the next one. A rate that has been assigned
    after the update is not told from that of the update.
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


def stability_threshold(optimizer: keras.optimizers.Optimizer) -> float:
    """Stability threshold λ* of an optimizer, at the learning rate of its last update.

    With P frozen at its present value, the optimizer diverges on the local quadratic as soon as
    ``λ₁(P⁻¹H)`` exceeds λ*. For Adam with β₁ = 0.9, λ* is 38/η.

    Args:
        optimizer: `keras.optimizers.Optimizer`, of any type that `preconditioner` accepts. It need
            not have made an update.

    Returns:
        λ* as a float.

    Raises:
        TypeError: If the optimizer's update is unknown or does not have the form of `Dynamics`.

    Example:
        >>> round(stability_threshold(keras.optimizers.SGD(0.5)), 6)
        4.0

    References:
        Cohen et al. 2022, Table 1; see `keras_aeos.stability`.
    """
    return describe(optimizer).stability_threshold()


def preconditioner(optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """Diagonal of the preconditioner P in the optimizer's last update.

    P is the positive diagonal matrix in ``x⁺ = x - η P⁻¹ m̃`` (before weight decay). It scales like
    the Hessian, not like the inverse of the Hessian. For Adam with bias correction it is
    ``(1 - β₁ᵗ)(√(ν / (1 - β₂ᵗ)) + ε)``.

    Args:
        optimizer: `keras.optimizers.Optimizer`. From `keras_aeos.optimizers`, from Keras if its
            update has the form of `Dynamics`, or described by `keras_aeos.register_dynamics`. It
            must have made at least one update.

    Returns:
        List of tensors, one per trainable variable in the model's order, with the variable's shape
        and dtype (float32 if that is half precision). For a variable that is excluded from weight
        decay, P is larger by a factor of at most ``2/(2-ηw)``, which puts all variables on the
        scale of one λ*.

    Raises:
        TypeError: If the optimizer's update is unknown or does not have the form of `Dynamics`.
        ValueError: If the optimizer has made no update yet, because P is undefined before the
            first.

    References:
        Cohen et al. 2022, Section 2 and Equation 2.
    """
    dynamics = describe(optimizer)
    if num_updates(optimizer) == 0:
        raise ValueError(
            "The last update defines the preconditioner, and this optimizer has made none. "
            "Train for at least one step first. "
            f"Received: optimizer={type(optimizer).__name__} with iterations=0"
        )
    return dynamics.diagonals()
