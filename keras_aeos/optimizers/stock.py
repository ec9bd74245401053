"""Momentum and preconditioner of the optimizers that come with Keras, by type.

Each description is derived from the optimizer's `update_step`. It is exact if the update has the
form ``x⁺ = (1 - ηw) x - η P⁻¹ m̃``. If the update differs by a detail that the optimizer does not
store, `Dynamics.approximation` names the detail. For any other update the description raises a
`TypeError` with the reason.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.optimizers.dynamics import (
    Dynamics,
    describe,
    num_updates,
    register_dynamics,
    register_with_rate,
)
from keras_aeos.stability import Momentum, ScheduleFree


def _register(*names: str, with_rate: bool = False) -> Callable[[Any], Any]:
    """Register a description for each named optimizer that this version of Keras has."""

    def register(function: Any) -> Any:
        for name in names:
            if hasattr(keras.optimizers, name):
                add = register_with_rate if with_rate else register_dynamics
                add(getattr(keras.optimizers, name))(function)
        return function

    return register


@_register("SGD")
def _sgd(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = I``; the momentum buffer holds ``-η`` times the standard momentum."""
    kind = Momentum.nesterov if optimizer.nesterov else Momentum.heavy_ball
    return Dynamics(
        kind(optimizer.momentum),
        lambda: [tf.ones(v.shape, v.dtype) for v in optimizer._trainable_variables],
    )


@_register("RMSprop")
def _rmsprop(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = √(ν + ε)``, or ``√(ν - ḡ² + ε)`` if centered; momentum on the preconditioned step."""

    def diagonals() -> list[tf.Tensor]:
        moments = _tensors(optimizer._velocities)
        if optimizer.centered:
            averages = _tensors(optimizer._average_gradients)
            moments = [nu - tf.square(g) for nu, g in zip(moments, averages, strict=True)]
        return [tf.sqrt(nu + optimizer.epsilon) for nu in moments]

    return Dynamics(Momentum.heavy_ball(optimizer.momentum), diagonals)


@_register("Adagrad")
def _adagrad(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = √(ν + ε)``, where ν starts at `initial_accumulator_value`."""
    return Dynamics(
        Momentum.none(),
        lambda: [tf.sqrt(nu + optimizer.epsilon) for nu in _tensors(optimizer._accumulators)],
    )


@_register("Adadelta")
def _adadelta(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = √(E[g²] + ε) / √(E[Δ²] + ε)``, with E[Δ²] from before the update."""

    def diagonals() -> list[tf.Tensor]:
        gradients = _tensors(optimizer._accumulated_grads)
        steps = _tensors(optimizer._accumulated_delta_vars)
        return [
            tf.sqrt((g + optimizer.epsilon) / (d + optimizer.epsilon))
            for g, d in zip(gradients, steps, strict=True)
        ]

    return Dynamics(
        Momentum.none(),
        diagonals,
        approximation="P of Adadelta uses the average of the squared updates from after the last "
        "update, whereas the update itself used the average from before it.",
    )


@_register("Adam", "AdamW")
def _adam(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = (1-β₁ᵗ)/√(1-β₂ᵗ) (√ν + ε)``: ε is added to the root before the correction."""

    def diagonals() -> list[tf.Tensor]:
        slots = optimizer._velocity_hats if optimizer.amsgrad else optimizer._velocities
        step = optimizer.iterations
        return [
            _correction(optimizer.beta_1, step, nu)
            / tf.sqrt(_correction(optimizer.beta_2, step, nu))
            * (tf.sqrt(nu) + optimizer.epsilon)
            for nu in _tensors(slots)
        ]

    return Dynamics(Momentum.heavy_ball(optimizer.beta_1, ema=True), diagonals)


@_register("Adamax")
def _adamax(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = (1-β₁ᵗ)(u + ε)``, where u is the decaying maximum of ``|g|``."""

    def diagonals() -> list[tf.Tensor]:
        step = optimizer.iterations
        return [
            _correction(optimizer.beta_1, step, norm) * (norm + optimizer.epsilon)
            for norm in _tensors(optimizer._u)
        ]

    return Dynamics(Momentum.heavy_ball(optimizer.beta_1, ema=True), diagonals)


@_register("Nadam")
def _nadam(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """``P = √(ν/(1-β₂ᵗ)) + ε``; the shares of buffer and gradient in the step follow a schedule.

    With ``u_t = β₁(1 - 0.96ᵗ/2)`` and ``Π_t = u_1 ⋯ u_t``, the buffer's share is
    ``u_{t+1}/(1-Π_{t+1})`` and the gradient's ``(1-u_t)/(1-Π_t)``.
    """
    step = max(int(keras.ops.convert_to_numpy(optimizer.iterations)), 1)
    rates = optimizer.beta_1 * (1.0 - 0.5 * 0.96 ** np.arange(1, step + 2))
    product = rates[:-1].prod()
    momentum = Momentum(
        optimizer.beta_1,
        gradient_weight=1.0 - optimizer.beta_1,
        buffer_share=rates[-1] / (1.0 - product * rates[-1]),
        gradient_share=(1.0 - rates[-2]) / (1.0 - product),
    )
    return Dynamics(momentum, lambda: _corrected_roots(optimizer))


@_register("Lamb", with_rate=True)
def _lamb(optimizer: keras.optimizers.Optimizer, rate: float) -> Dynamics:
    """``P = (1-β₁ᵗ)(√(ν/(1-β₂ᵗ)) + ε) / r`` with the variable's trust ratio ``r = ‖x‖/‖u‖``.

    The update ``x⁺ = x - η r u`` uses the norm of x from before the update. Because
    ``x = x⁺ + η r u``, r is the positive root of ``r²‖u‖² = ‖x⁺ + η r u‖²``.
    """

    def diagonals() -> list[tf.Tensor]:
        return [
            root
            * _correction(optimizer.beta_1, optimizer.iterations, root)
            / _trust_ratio(
                tf.convert_to_tensor(variable),
                m / (_correction(optimizer.beta_1, optimizer.iterations, root) * root),
                tf.cast(rate, root.dtype),
            )
            for variable, m, root in zip(
                optimizer._trainable_variables,
                _tensors(optimizer._momentums),
                _corrected_roots(optimizer),
                strict=True,
            )
        ]

    return Dynamics(Momentum.heavy_ball(optimizer.beta_1, ema=True), diagonals)


def _trust_ratio(after: tf.Tensor, update: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Trust ratio r of ``x⁺ = x - η r u``, given x⁺, u and η; 1 if x or u was zero."""
    squared = tf.reduce_sum(tf.square(update))
    inner = rate * tf.reduce_sum(after * update)
    remainder = (1.0 - rate**2) * squared
    root = tf.sqrt(inner**2 + remainder * tf.reduce_sum(tf.square(after)))
    ratio = tf.math.divide_no_nan(inner + root, remainder)
    # A variable that was zero has moved by exactly -ηu.
    from_zero = tf.norm(after + rate * update) <= 1e-6 * tf.norm(after)
    return tf.where(from_zero | (squared == 0.0), tf.ones_like(ratio), ratio)


@_register("Ftrl", with_rate=True)
def _ftrl(optimizer: keras.optimizers.Optimizer, rate: float) -> Dynamics:
    """``P = n^-q + 2ηl₂ + β``, with the sum of squares n and the power q of the learning rate.

    The description holds from the second update on. The first update starts from zero, whatever
    the value of the variable, and is called an approximation.
    """

    def diagonals() -> list[tf.Tensor]:
        shift = 2.0 * rate * optimizer.l2_regularization_strength + optimizer.beta
        return [
            tf.pow(n, -optimizer.learning_rate_power) + tf.cast(shift, n.dtype)
            for n in _tensors(optimizer._accumulators)
        ]

    details = {
        "coordinates held at zero by `l1_regularization_strength`": (
            optimizer.l1_regularization_strength
        ),
        "the curvature of `l2_shrinkage_regularization_strength`": (
            optimizer.l2_shrinkage_regularization_strength
        ),
        "`weight_decay`, which Ftrl undoes almost entirely": optimizer.weight_decay,
        "the change of the learning rate": callable(optimizer._learning_rate),
    }
    left_out = [detail for detail, present in details.items() if present]
    if num_updates(optimizer) == 1:
        left_out.append("the start of the first update from zero instead of the variable's value")
    return Dynamics(
        Momentum.none(),
        diagonals,
        weight_decay=0.0,
        approximation=f"P of Ftrl leaves out {', '.join(left_out)}." if left_out else "",
    )


@_register("Adafactor", with_rate=True)
def _adafactor(optimizer: keras.optimizers.Optimizer, rate: float) -> Dynamics:
    """``P = √ν̂ max(1, η√t) / max(ε₂, rms(x))``, for a step of ``min(η, 1/√t)`` times rms(x)."""

    def diagonals() -> list[tf.Tensor]:
        diagonals = []
        for variable, nu in zip(
            optimizer._trainable_variables, _tensors(optimizer._v), strict=True
        ):
            step = tf.cast(optimizer.iterations, nu.dtype)
            scale = tf.sqrt(tf.reduce_mean(tf.square(tf.convert_to_tensor(variable))))
            slowed = tf.maximum(tf.cast(1.0, nu.dtype), rate * tf.sqrt(step))
            diagonals.append(tf.sqrt(nu) * slowed / tf.maximum(scale, optimizer.epsilon_2))
        return diagonals

    return Dynamics(
        Momentum.none(),
        diagonals,
        approximation="P of Adafactor leaves out the clipping of the update. It scales by the "
        "variable's root mean square after the update, not before it. "
        "keras_aeos.optimizers.Adafactor accounts for both.",
    )


@_register("ScheduleFreeAdamW", with_rate=True)
def _schedule_free_adamw(optimizer: keras.optimizers.Optimizer, rate: float) -> Dynamics:
    """``P = √(ν/(1-β₂ᵗ)) + ε`` in the step of z, which enters the average with the weight 1/t.

    With the TensorFlow backend, Keras recovers the average from z after the step of z, not before
    it. β₁ then cancels out: the gradient is taken at the average itself.
    """
    step = max(int(keras.ops.convert_to_numpy(optimizer.iterations)), 1)
    warm_up = min(step / optimizer.warmup_steps, 1.0) if optimizer.warmup_steps else 1.0
    return Dynamics(
        ScheduleFree(beta=1.0, average_weight=1.0 / step),
        lambda: _corrected_roots(optimizer),
        learning_rate=rate * warm_up,
        # The decay uses the full learning rate, without the warm-up.
        weight_decay=(optimizer.weight_decay or 0.0) / warm_up,
    )


@_register("MultiOptimizer")
def _multi_optimizer(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """The inner optimizers, all on the scale of the first one with a finite threshold λ*.

    The P of any other one, with threshold λ', is multiplied by λ'/λ*. If the inner optimizers
    differ in the learning rate alone, this gives P of the joint update at the first one's rate. In
    general, a root of the joint system is at -1 exactly where the largest eigenvalue of the joint
    ``P⁻¹H`` is λ*. Heavy-ball methods leave the stable region there and nowhere else.
    """
    inner = [part for part in optimizer.optimizers if part.built]
    if not inner:
        raise TypeError(
            "A MultiOptimizer can be described only after its first update. Train for at least "
            "one step first. Received: optimizer=MultiOptimizer, not built"
        )
    parts = [describe(part) for part in inner]
    thresholds = [part.stability_threshold() for part in parts]
    first = int(np.argmin([np.isinf(threshold) for threshold in thresholds]))
    scales = [threshold / thresholds[first] for threshold in thresholds]

    def diagonals() -> list[tf.Tensor]:
        by_variable = {
            id(variable): scale * diagonal
            for part, dynamics, scale in zip(inner, parts, scales, strict=True)
            for variable, diagonal in zip(
                part._trainable_variables, dynamics.diagonals(), strict=True
            )
        }
        return [by_variable[id(variable)] for variable in optimizer._trainable_variables]

    # Two parts may have the same to say.
    approximations = list(dict.fromkeys(part.approximation for part in parts if part.approximation))
    if len({part.gradient_accumulation_steps for part in inner}) > 1:
        approximations.append(
            "The parts of this MultiOptimizer accumulate gradients over different numbers of "
            "steps. P and the threshold are those of an update of all parts at once."
        )
    kinds = {part.momentum for part in parts}
    if len(kinds) > 1 and not all(getattr(kind, "gradient_share", 1.0) == 0.0 for kind in kinds):
        approximations.append(
            "This MultiOptimizer mixes different momentum, not all of it heavy ball. Its threshold "
            "is the one of the oscillating instability and does not exclude other instabilities."
        )
    return dataclasses.replace(
        parts[first], diagonals=diagonals, approximation=" ".join(approximations)
    )


@_register("Lion")
def _lion(optimizer: keras.optimizers.Optimizer) -> NoReturn:
    raise TypeError(
        "Lion steps by the sign of its momentum, whatever the magnitude. It has no preconditioner "
        "and therefore no stability threshold. Received: optimizer=Lion"
    )


@_register("Muon")
def _muon(optimizer: keras.optimizers.Optimizer) -> Dynamics:
    """P as in `_adam` if Adam updates every variable; orthogonalised steps have no diagonal P."""
    variables = optimizer._trainable_variables
    if not variables or not all(optimizer._should_use_adamw(v) for v in variables):
        raise TypeError(
            "Muon orthogonalises the steps of matrices. It has no diagonal preconditioner and "
            "therefore no stability threshold. Received: optimizer=Muon"
        )

    def diagonals() -> list[tf.Tensor]:
        step = optimizer.iterations
        return [
            _correction(optimizer.adam_beta_1, step, nu)
            / tf.sqrt(_correction(optimizer.adam_beta_2, step, nu))
            * (tf.sqrt(nu) + optimizer.epsilon)
            / optimizer.adam_lr_ratio
            for nu in _tensors(optimizer.adam_velocities)
        ]

    return Dynamics(
        Momentum.heavy_ball(optimizer.adam_beta_1, ema=True),
        diagonals,
        weight_decay=optimizer.adam_weight_decay or 0.0,
    )


def _corrected_roots(optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """``√(ν/(1-β₂ᵗ)) + ε`` for each variable."""
    return [
        tf.sqrt(nu / _correction(optimizer.beta_2, optimizer.iterations, nu)) + optimizer.epsilon
        for nu in _tensors(optimizer._velocities)
    ]


def _correction(decay: float, step: Any, like: tf.Tensor) -> tf.Tensor:
    """``1 - decayᵗ`` at t = `step`, in the dtype of `like`."""
    return 1.0 - tf.pow(tf.cast(decay, like.dtype), tf.cast(step, like.dtype))


def _tensors(slots: Iterable[Any]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(slot) for slot in slots]
