"""The factor by which training multiplies its loss in half precision."""

import keras
import tensorflow as tf


def loss_scale(model: keras.Model, dtype: tf.DType) -> tf.Tensor | None:
    """The factor by which the optimizer multiplies the loss, a scalar; None without loss scaling.

    In float16 the gradients of a mean over many terms underflow to zero. Training multiplies the
    loss by this factor and divides the gradient by it. It is a power of two, so that both are
    exact. A product with the Hessian needs the same: differentiate the scaled gradient, and divide
    by the factor at the end.

    Args:
        model: A compiled Keras model.
        dtype: Type of the result.
    """
    optimizer = model.optimizer
    scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not scaling and not getattr(optimizer, "loss_scale_factor", None):
        return None
    return tf.cast(optimizer.scale_loss(tf.ones([], tf.float32)), dtype)
