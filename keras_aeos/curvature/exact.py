"""Second derivatives that are exact through normalisation layers."""

import contextlib
import threading

import tensorflow as tf


@contextlib.contextmanager
def exact_second_derivatives():
    """Within this context, `tf.nn.moments` is twice differentiable as written.

    Stock `tf.nn.moments` takes the variance around ``stop_gradient(mean)``. Its gradient is right,
    since the derivative of the variance by the mean vanishes at the mean, but its second
    derivative is not, and with it every Hessian-vector product through a batch, layer or group
    normalisation. The replacement has the same values and gradients, and the right Hessian.

    Only functions traced by the calling thread inside the context are affected: training functions
    traced before, after or elsewhere keep the stock operation.
    """
    stock = tf.nn.moments
    thread = threading.get_ident()

    def moments(x, axes, shift=None, keepdims=False, name=None):
        if threading.get_ident() != thread:
            return stock(x, axes, shift=shift, keepdims=keepdims, name=name)
        return _exact_moments(x, axes, keepdims)

    tf.nn.moments = moments
    try:
        yield
    finally:
        tf.nn.moments = stock


def _exact_moments(x, axes, keepdims):
    """Mean and variance along `axes`; half precision is averaged in float32, as stock does."""
    x = tf.convert_to_tensor(x)
    y = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(y, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(y - mean), axes, keepdims=keepdims)
    if not keepdims:
        mean = tf.squeeze(mean, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
