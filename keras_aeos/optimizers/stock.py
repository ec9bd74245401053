"""Momentum and preconditioner of the optimizers that come with Keras, by type.

Each description is read off the optimizer's `update_step`. Where the update is of the form
``x⁺ = (1 - ηw) x - η P⁻¹ m̃`` the description is exact; where it is so but for a detail that the
optimizer does not keep, the detail is named in `Dynamics.approximation`; where it is not, the
description raises a `TypeError` that says why.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.optimizers.dynamics import (
    Dynamics,
    describe,
    last_learning_rate,
    register_dynamics,
)
from keras_aeos.stability import Momentum, ScheduleFree


def _register(*names):
    """Register a description for those of the named optimizers that this version of Keras has."""

    def register(function):
        for name in names:
            if hasattr(keras.optimizers, name):
                register_dynamics(getattr(keras.optimizers, name))(function)
        return function

    return register


@_register("SGD")
def _sgd(optimizer):
    """``P = I``; the momentum buffer holds ``-η`` times the standard momentum."""
    kind = Momentum.nesterov if optimizer.nesterov else Momentum.heavy_ball
    return Dynamics(
        kind(optimizer.momentum),
        lambda: [tf.ones(v.shape, v.dtype) for v in optimizer._trainable_variables],
    )


@_register("RMSprop")
def _rmsprop(optimizer):
    """``P = √(ν + ε)``, or ``√(ν - ḡ² + ε)`` if centered; momentum on the preconditioned step."""

    def diagonals():
        moments = _tensors(optimizer._velocities)
        if optimizer.centered:
            averages = _tensors(optimizer._average_gradients)
            moments = [nu - tf.square(g) for nu, g in zip(moments, averages, strict=True)]
        return [tf.sqrt(nu + optimizer.epsilon) for nu in moments]

    return Dynamics(Momentum.heavy_ball(optimizer.momentum), diagonals)


@_register("Adagrad")
def _adagrad(optimizer):
    """``P = √(ν + ε)``, ν starting at `initial_accumulator_value`."""
    return Dynamics(
        Momentum.none(),
        lambda: [tf.sqrt(nu + optimizer.epsilon) for nu in _tensors(optimizer._accumulators)],
    )


@_register("Adadelta")
def _adadelta(optimizer):
    """``P = √(E[g²] + ε) / √(E[Δ²] + ε)``, E[Δ²] as before the update."""

    def diagonals():
        gradients = _tensors(optimizer._accumulated_grads)
        steps = _tensors(optimizer._accumulated_delta_vars)
        return [
            tf.sqrt((g + optimizer.epsilon) / (d + optimizer.epsilon))
            for g, d in zip(gradients, steps, strict=True)
        ]

    return Dynamics(
        Momentum.none(),
        diagonals,
        approximation="P of Adadelta has the average of the squared updates as it stands after the "
        "last update; the update divided by it as it stood before.",
    )


@_register("Adam", "AdamW")
def _adam(optimizer):
    """``P = (1-β₁ᵗ)/√(1-β₂ᵗ) (√ν + ε)``: ε is added to the root before the correction."""

    def diagonals():
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
def _adamax(optimizer):
    """``P = (1-β₁ᵗ)(u + ε)`` with the decaying maximum u of ``|g|``."""

    def diagonals():
        step = optimizer.iterations
        return [
            _correction(optimizer.beta_1, step, norm) * (norm + optimizer.epsilon)
            for norm in _tensors(optimizer._u)
        ]

    return Dynamics(Momentum.heavy_ball(optimizer.beta_1, ema=True), diagonals)


@_register("Nadam")
def _nadam(optimizer):
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


@_register("Lamb")
def _lamb(optimizer):
    """``P = (1-β₁ᵗ)(√(ν/(1-β₂ᵗ)) + ε) / r`` with the variable's trust ratio ``r = ‖x‖/‖u‖``.

    The update ``x⁺ = x - η r u`` divided by the norm that x had before it. With it
    ``x = x⁺ + η r u``, so that r is the positive root of ``r²‖u‖² = ‖x⁺ + η r u‖²``.
    """

    def diagonals():
        rate = last_learning_rate(optimizer)
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


def _trust_ratio(after, update, rate):
    """Trust ratio r of ``x⁺ = x - η r u``, given x⁺, u and η; 1 where x or u was zero."""
    squared = tf.reduce_sum(tf.square(update))
    inner = rate * tf.reduce_sum(after * update)
    remainder = (1.0 - rate**2) * squared
    root = tf.sqrt(inner**2 + remainder * tf.reduce_sum(tf.square(after)))
    ratio = tf.math.divide_no_nan(inner + root, remainder)
    # A variable that was zero has moved by -ηu exactly.
    from_zero = tf.norm(after + rate * update) <= 1e-6 * tf.norm(after)
    return tf.where(from_zero | (squared == 0.0), tf.ones_like(ratio), ratio)


@_register("Ftrl")
def _ftrl(optimizer):
    """``P = n^-q + 2ηl₂ + β``, n the sum of squares and q the power of the learning rate.

    Holds from the second update on: the first one starts from zero, wherever the variable was.
    """

    def diagonals():
        rate = last_learning_rate(optimizer)
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
        "`weight_decay`, nearly all of which Ftrl undoes": optimizer.weight_decay,
        "the change of the learning rate": callable(optimizer._learning_rate),
    }
    left_out = [detail for detail, present in details.items() if present]
    return Dynamics(
        Momentum.none(),
        diagonals,
        weight_decay=0.0,
        approximation=f"P of Ftrl leaves out {', '.join(left_out)}." if left_out else "",
    )


@_register("Adafactor")
def _adafactor(optimizer):
    """``P = √ν̂ max(1, η√t) / max(ε₂, rms(x))``, the step being ``min(η, 1/√t)`` times rms(x)."""

    def diagonals():
        rate = last_learning_rate(optimizer)
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
        approximation="P of Adafactor leaves out the clipping of the update, and scales by the "
        "variable's root mean square after the update, not before it; "
        "keras_aeos.optimizers.Adafactor keeps both.",
    )


@_register("ScheduleFreeAdamW")
def _schedule_free_adamw(optimizer):
    """``P = √(ν/(1-β₂ᵗ)) + ε`` in the step of z; the average has the weight 1/t of the step.

    With the TensorFlow backend Keras recovers the average from z after its step, not before it.
    Then β₁ cancels out: the gradient is taken at the average itself.
    """
    step = max(int(keras.ops.convert_to_numpy(optimizer.iterations)), 1)
    warm_up = min(step / optimizer.warmup_steps, 1.0) if optimizer.warmup_steps else 1.0
    return Dynamics(
        ScheduleFree(beta=1.0, average_weight=1.0 / step),
        lambda: _corrected_roots(optimizer),
        learning_rate=last_learning_rate(optimizer) * warm_up,
        # The decay is made at the full learning rate.
        weight_decay=(optimizer.weight_decay or 0.0) / warm_up,
    )


@_register("MultiOptimizer")
def _multi_optimizer(optimizer):
    """The inner optimizers on one scale: that of the first with a finite threshold, λ*.

    P of another one, with the threshold λ', is multiplied by λ'/λ*. For inner optimizers that
    differ in the learning rate alone this is P of the joint update at the first one's rate. In
    general, a root of the joint system is at -1 exactly where the largest eigenvalue of the joint
    ``P⁻¹H`` is λ*. Heavy balls leave the stable region there and nowhere else.
    """
    inner = [part for part in optimizer.optimizers if part.built]
    if not inner:
        raise TypeError(
            "A MultiOptimizer is known from its first update on. "
            "Received: an optimizer that has made none"
        )
    parts = [describe(part) for part in inner]
    thresholds = [part.stability_threshold() for part in parts]
    first = int(np.argmin([np.isinf(threshold) for threshold in thresholds]))
    scales = [threshold / thresholds[first] for threshold in thresholds]

    def diagonals():
        by_variable = {
            id(variable): scale * diagonal
            for part, dynamics, scale in zip(inner, parts, scales, strict=True)
            for variable, diagonal in zip(
                part._trainable_variables, dynamics.diagonals(), strict=True
            )
        }
        return [by_variable[id(variable)] for variable in optimizer._trainable_variables]

    approximations = [part.approximation for part in parts if part.approximation]
    kinds = {part.momentum for part in parts}
    if len(kinds) > 1 and not all(getattr(kind, "gradient_share", 1.0) == 0.0 for kind in kinds):
        approximations.append(
            "The threshold of a MultiOptimizer whose optimizers have different momentum, not all "
            "heavy ball, is that of the oscillating instability; others are not excluded."
        )
    return dataclasses.replace(
        parts[first], diagonals=diagonals, approximation=" ".join(approximations)
    )


@_register("Lion")
def _lion(optimizer):
    raise TypeError(
        "Lion steps by the sign of its momentum, whatever its size: there is no preconditioner, "
        "hence no stability threshold. Received: optimizer=Lion"
    )


@_register("Muon")
def _muon(optimizer):
    """Orthogonalised matrices have no diagonal P; the variables left to Adam are as in `_adam`."""
    variables = optimizer._trainable_variables
    if not variables or not all(optimizer._should_use_adamw(v) for v in variables):
        raise TypeError(
            "Muon orthogonalises the steps of matrices: there is no diagonal preconditioner, "
            "hence no stability threshold. Received: optimizer=Muon"
        )

    def diagonals():
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


def _corrected_roots(optimizer):
    """``√(ν/(1-β₂ᵗ)) + ε`` of each variable."""
    return [
        tf.sqrt(nu / _correction(optimizer.beta_2, optimizer.iterations, nu)) + optimizer.epsilon
        for nu in _tensors(optimizer._velocities)
    ]


def _correction(decay, step, like):
    """``1 - decayᵗ`` in the dtype of a tensor."""
    return 1.0 - tf.pow(tf.cast(decay, like.dtype), tf.cast(step, like.dtype))


def _tensors(slots):
    return [tf.convert_to_tensor(slot) for slot in slots]
