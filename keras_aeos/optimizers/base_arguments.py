"""What the arguments that all Keras optimizers share, and the variables' constraints, do to P, λ*.

Keras clips the gradients, decays the variables, makes the update, overwrites the variables by their
moving average and applies the constraints, in this order. `Dynamics` describes the update; here it
is changed to what the whole step does where that has its form, and otherwise the difference is
named.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.stability import Momentum

# Methods of an optimizer through which a subclass can change the step beside `update_step`.
_STEP_METHODS = (
    "apply",
    "apply_gradients",
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_clip_gradients",
    "_update_model_variables_moving_average",
)


def weight_decay(optimizer: keras.optimizers.Optimizer) -> float:
    """Decoupled weight decay w; 0 if every variable is excluded from it."""
    decays = _decays(optimizer)
    if not optimizer.weight_decay or (decays and not any(decays)):
        return 0.0
    return float(optimizer.weight_decay)


def with_overwriting(dynamics: Any, optimizer: keras.optimizers.Optimizer, num_updates: int) -> Any:
    """The dynamics with the variables overwritten by their moving average after each update.

    With ``x̄⁺ = μx̄ + (1-μ)x⁺`` and ``x ← x̄⁺`` after each update, x moves by ``1-μ`` of the update:
    the shares of m̃ and the weight decay shrink by this factor. The first update is made in full.
    """
    if num_updates == 1 or not overwrites_after_each_update(optimizer):
        return dynamics
    if not isinstance(dynamics.momentum, Momentum):
        return dynamics
    share = 1.0 - optimizer.ema_momentum
    return dataclasses.replace(
        dynamics,
        momentum=dataclasses.replace(
            dynamics.momentum,
            buffer_share=share * dynamics.momentum.buffer_share,
            gradient_share=share * dynamics.momentum.gradient_share,
        ),
        weight_decay=share * dynamics.weight_decay,
    )


def overwrites_after_each_update(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the variables are overwritten by their moving average after each update."""
    return bool(optimizer.use_ema and optimizer.ema_overwrite_frequency == 1)


def with_exclusions(dynamics: Any, optimizer: keras.optimizers.Optimizer) -> Any:
    """The dynamics with P of the variables without weight decay on the scale of the others.

    A root is at -1 exactly where the largest eigenvalue of the scaled ``P⁻¹H`` is λ*, and a heavy
    ball leaves the stable region there and nowhere else. With the threshold λ' of a variable
    without decay its P is multiplied by λ'/λ*, which is at most ``2/(2-ηw)``.
    """
    decays = _decays(optimizer)
    if not _is_heavy_ball(dynamics.momentum) or not dynamics.weight_decay or all(decays):
        return dynamics
    threshold = dynamics.stability_threshold()
    without = dataclasses.replace(dynamics, weight_decay=0.0).stability_threshold()
    if not (threshold > 0.0 and without < np.inf):
        return dynamics
    scales = [1.0 if decay else without / threshold for decay in decays]
    return dataclasses.replace(
        dynamics,
        diagonals=lambda: [
            scale * diagonal for scale, diagonal in zip(scales, dynamics.diagonals(), strict=True)
        ],
    )


def differences(
    dynamics: Any,
    optimizer: keras.optimizers.Optimizer,
    base: type,
    num_updates: int,
    depends_on_rate: bool,
) -> list[str]:
    """Sentences that name how the step differs from the dynamics.

    Args:
        dynamics: `keras_aeos.Dynamics` of the optimizer.
        optimizer: Keras optimizer that makes the update.
        base: Type that the description was registered for.
        num_updates: Integer. Number of updates so far.
        depends_on_rate: Boolean. Whether P is recovered from the learning rate or the variables.
    """
    found = []
    for argument in ("clipnorm", "global_clipnorm", "clipvalue"):
        if value := getattr(optimizer, argument):
            found.append(
                f"P and the threshold are exact only in updates in which clipping ({argument}="
                f"{value:g}) does not act. While it shortens the gradients by a factor c, the "
                "edge ratio of the step is c times the one given; the quantity 'clipping' "
                "measures both."
            )
    constrained = [
        variable.path
        for variable in optimizer._trainable_variables
        if getattr(variable, "constraint", None) is not None
    ]
    if constrained:
        found.append(
            "P and the threshold are exact only in updates in which the constraints of the "
            f"variables do not act: {_listed(constrained)}."
        )
    if optimizer.use_ema and (frequency := optimizer.ema_overwrite_frequency):
        if frequency > 1:
            found.append(
                "The threshold leaves out that the variables are overwritten by their moving "
                f"average after every {frequency} updates (ema_overwrite_frequency)."
            )
        elif num_updates > 1 and (depends_on_rate or not isinstance(dynamics.momentum, Momentum)):
            found.append(
                "P and the threshold leave out that the variables are overwritten by their moving "
                "average after each update (ema_overwrite_frequency)."
            )
    excluded = dynamics.weight_decay and not all(_decays(optimizer))
    if excluded and not _is_heavy_ball(dynamics.momentum):
        found.append(
            "Weight decay excludes some variables; the threshold is that of the others, too low by "
            f"at most a relative {dynamics.learning_rate * dynamics.weight_decay / 2:.1g}."
        )
    rate = optimizer._learning_rate
    if callable(rate) and not isinstance(
        rate, keras.optimizers.schedules.LearningRateSchedule | keras.Variable
    ):
        found.append(
            "The learning rate is what the callable `learning_rate` returns now. A training "
            "function keeps a Python number that it returned when the function was traced."
        )
    overridden = _overridden(optimizer, base)
    if overridden:
        found.append(
            f"P and the threshold are those of {base.__name__}; {type(optimizer).__name__} "
            f"overrides {_listed(overridden)}, which may change the step."
        )
    return found


def clipped(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """The gradients of an update after clipping.

    While clipping shortens the gradients steadily by a factor c, the optimizer makes the step
    ``x⁺ = x - η P⁻¹ m̃(cg)``. The edge ratio of this step is c times λ₁(P⁻¹H)/λ*, with P as
    reported. With a second moment, P is made of clipped gradients and is itself c times as large,
    so that c cancels out. The derivative of c is left out.

    Args:
        optimizer: Keras optimizer, not a `LossScaleOptimizer`. The parts of a `MultiOptimizer`
            clip by themselves.
        gradients: List of tensors, one per trainable variable of the optimizer.

    Returns:
        List of tensors in the same order.
    """
    places = {id(v): place for place, v in enumerate(optimizer._trainable_variables)}
    result = list(gradients)
    for part in getattr(optimizer, "optimizers", None) or [optimizer]:
        of_part = [places[id(v)] for v in part._trainable_variables]
        if of_part:
            found = part._clip_gradients([gradients[place] for place in of_part])
            for place, gradient in zip(of_part, found, strict=True):
                result[place] = tf.convert_to_tensor(gradient)
    return result


def _decays(optimizer: keras.optimizers.Optimizer) -> list[bool]:
    """Whether each variable is decayed.

    Keras looks for the names in that of the TensorFlow variable and keeps its answer.
    """
    return [
        optimizer._use_weight_decay(getattr(v, "value", v)) for v in optimizer._trainable_variables
    ]


def _is_heavy_ball(momentum: Any) -> bool:
    """Whether the step follows the buffer alone, or the gradient alone."""
    return isinstance(momentum, Momentum) and (momentum.gradient_share == 0.0 or not momentum.beta)


def _overridden(optimizer: keras.optimizers.Optimizer, base: type) -> list[str]:
    """Methods of the step that are not those of the registered type, nor of a library's class."""
    known: Any = base
    for known in type(optimizer).__mro__:
        if known is base or known.__module__.split(".")[0] in ("keras", "keras_aeos"):
            break
    return [
        f"`{name}`"
        for name in _STEP_METHODS
        if name in vars(optimizer)
        or getattr(type(optimizer), name, None) is not getattr(known, name, None)
    ]


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
