"""Momentum and preconditioner of the optimizers that come with Keras, by type.

Each description is a function of a built optimizer that returns ``(momentum, diagonals)`` as in
`keras_aeos.optimizers.dynamics.Dynamics`, read off the optimizer's `update_step`.
"""

import keras
import tensorflow as tf

from keras_aeos.stability import Momentum


def _sgd(optimizer):
    """``P = I``; the momentum buffer holds ``-η`` times the standard momentum."""
    return (
        _standard_momentum(optimizer.momentum, optimizer.nesterov),
        lambda: [tf.ones(v.shape, v.dtype) for v in optimizer._trainable_variables],
    )


def _rmsprop(optimizer):
    """``P = √(ν + ε)``, or ``√(ν - ḡ² + ε)`` if centered: ε stands inside the root."""

    def diagonals():
        moments = [tf.convert_to_tensor(v) for v in optimizer._velocities]
        if optimizer.centered:
            moments = [
                nu - tf.square(mean)
                for nu, mean in zip(moments, optimizer._average_gradients, strict=True)
            ]
        return [tf.sqrt(nu + optimizer.epsilon) for nu in moments]

    return _standard_momentum(optimizer.momentum), diagonals


def _adam(optimizer):
    """``P = (1-β₁ᵗ)/√(1-β₂ᵗ) (√ν + ε)``: ε is added to the root before the correction."""

    def diagonals():
        slots = optimizer._velocity_hats if optimizer.amsgrad else optimizer._velocities
        return [_corrected_root(optimizer, slot) for slot in slots]

    return Momentum("heavy_ball", optimizer.beta_1, ema=True), diagonals


def _corrected_root(optimizer, slot):
    step = tf.cast(optimizer.iterations, slot.dtype)
    correction_1 = 1.0 - tf.pow(tf.cast(optimizer.beta_1, slot.dtype), step)
    correction_2 = tf.sqrt(1.0 - tf.pow(tf.cast(optimizer.beta_2, slot.dtype), step))
    return correction_1 / correction_2 * (tf.sqrt(tf.convert_to_tensor(slot)) + optimizer.epsilon)


def _standard_momentum(beta, nesterov=False):
    if not beta:
        return Momentum()
    return Momentum("nesterov" if nesterov else "heavy_ball", beta)


STOCK_DESCRIPTIONS = {
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.SGD: _sgd,
}
