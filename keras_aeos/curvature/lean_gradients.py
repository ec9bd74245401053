"""Gradients that equal TensorFlow's and take fewer operations to differentiate once more.

A product repeats all operations that depend on its vector. Here the other factors are multiplied
among themselves, once. Complex numbers are left to TensorFlow.
"""

import functools
from collections.abc import Callable
from types import NoneType
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from keras_aeos.curvature.corrections import Gradient


def of_each_entry(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The same function f of each entry of a tensor; products multiply by f' and f'' as they are.

    It has no third derivative. Of complex numbers, or with further arguments that are tensors, it
    is the given function.
    """

    @functools.wraps(function)
    def lean(features: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        features = tf.convert_to_tensor(features)
        given = (*args, *kwargs.values())
        fixed = all(isinstance(argument, bool | int | float | str | NoneType) for argument in given)
        if features.dtype.is_complex or not fixed:
            return function(features, *args, **kwargs)

        @tf.custom_gradient
        def value(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    y = function(x, *args, **kwargs)
                slope = first.gradient(y, x)
            bend = second.gradient(slope, x)

            @tf.custom_gradient
            def scaled(upstream: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
                bent = upstream * bend
                return upstream * slope, lambda vector: (vector * slope, vector * bent)

            return y, lambda upstream: scaled(upstream, x)

        return value(features)

    return lean


def _batch_matmul(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of ``x W`` with one matrix W for all matrices x: as for one matrix of all rows of x."""
    x, matrix = operation.inputs
    transposed = operation.get_attr("adj_y")
    if operation.get_attr("adj_x") or matrix.shape.rank != 2:
        return framework_ops.gradient_registry.stock("BatchMatMulV2")(operation, upstream)
    rows = tf.reshape(x, [-1, tf.shape(x)[-1]])
    of_rows = tf.reshape(upstream, [-1, tf.shape(upstream)[-1]])
    of_x = tf.reshape(tf.matmul(of_rows, matrix, transpose_b=not transposed), tf.shape(x))
    pair = (of_rows, rows) if transposed else (rows, of_rows)
    return of_x, tf.matmul(*pair, transpose_a=True)


def _mean(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Of a mean: divided by the number of entries before it is copied to all of them."""
    number = tf.size(operation.inputs[0]) // tf.maximum(tf.size(upstream), 1)
    share = upstream / tf.cast(number, upstream.dtype)
    return framework_ops.gradient_registry.stock("Sum")(operation, share)


def _sigmoid(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of ``dy y (1 - y)``, the gradient of ``y = sigmoid(x)``."""
    y, dy = operation.inputs
    return upstream * (dy * (1.0 - 2.0 * y)), tf.raw_ops.SigmoidGrad(y=y, dy=upstream)


def _tanh(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of ``dy (1 - y²)``, the gradient of ``y = tanh(x)``."""
    y, dy = operation.inputs
    return upstream * (-2.0 * dy * y), tf.raw_ops.TanhGrad(y=y, dy=upstream)


def _of_real_numbers(kind: str, lean: Gradient) -> Gradient:
    """A gradient for an operation of this kind; TensorFlow's where its input is complex."""

    @functools.wraps(lean)
    def gradient(operation: tf.Operation, upstream: tf.Tensor) -> Any:
        if operation.inputs[0].dtype.is_complex:
            return framework_ops.gradient_registry.stock(kind)(operation, upstream)
        return lean(operation, upstream)

    return gradient


LEAN: dict[str, Gradient] = {
    kind: _of_real_numbers(kind, lean)
    for kind, lean in (
        ("BatchMatMulV2", _batch_matmul),
        ("Mean", _mean),
        ("SigmoidGrad", _sigmoid),
        ("TanhGrad", _tanh),
    )
}
