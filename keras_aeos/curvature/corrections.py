"""Gradients that replace TensorFlow's, so that second derivatives are exact."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops

from keras_aeos.curvature.convolutions import convolution, transposed_convolution

# Maps an operation and the gradients of its outputs to the gradients of its inputs.
Gradient = Callable[..., Any]


def _linear(kind: str, inputs: Sequence[str], attributes: Sequence[str]) -> Gradient:
    """Gradient of an operation that is linear in its first input, an image.

    Args:
        kind: Type of the operation.
        inputs: Names of the operation's inputs after ``images`` and ``size``.
        attributes: Names of the operation's attributes that affect the result.
    """
    apply = getattr(tf.raw_ops, kind)

    def gradient(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        stock = framework_ops.gradient_registry.stock(kind)
        fixed = dict(zip(inputs, operation.inputs[2:], strict=True))
        fixed |= {name: operation.get_attr(name) for name in attributes}

        @tf.custom_gradient
        def transposed(gradients: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
            image, *_ = stock(operation, gradients)

            def forward(direction: tf.Tensor) -> tf.Tensor:
                return apply(images=direction, size=tf.shape(gradients)[1:3], **fixed)

            return image, forward

        return transposed(upstream), *[None] * (1 + len(inputs))

    return gradient


def _max_pool(kind: str) -> Gradient:
    """Gradient of a max-pooling gradient: the upstream values at the places of the maxima."""

    def gradient(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        if kind == "MaxPoolGrad" and operation.get_attr("padding") == b"EXPLICIT":
            picked = _picked_of_padded(operation, upstream)
        else:
            picked = framework_ops.gradient_registry.stock(kind)(operation, upstream)[2]
        others = [tf.zeros_like(tensor) for tensor in operation.inputs[:2]]
        sizes = [None] * len(operation.inputs[3:])
        return *others, _in_memory_of_its_own(picked, upstream), *sizes

    return gradient


def _picked_of_padded(operation: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """The upstream values at the maxima under explicit padding, which the kernel doesn't take."""
    image, pooled, _ = operation.inputs
    paddings = tf.reshape(operation.get_attr("explicit_paddings"), [-1, 2])
    return tf.raw_ops.MaxPoolGradGrad(
        orig_input=tf.pad(image, paddings, constant_values=image.dtype.min),
        orig_output=pooled,
        grad=tf.pad(upstream, paddings),
        ksize=operation.get_attr("ksize"),
        strides=operation.get_attr("strides"),
        padding="VALID",
        data_format=operation.get_attr("data_format"),
    )


def _in_memory_of_its_own(picked: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """`picked`, computed from `upstream` by a kernel that must not overwrite it.

    TensorFlow's kernel reuses the memory of its input if the sizes agree and the input has no
    other consumer. It clears this memory before reading it. Here the input has another consumer,
    which waits for the result.
    """
    sizes = [tensor.shape[1:].num_elements() for tensor in (picked, upstream)]
    if None not in sizes and sizes[0] != sizes[1]:
        return picked
    if None not in sizes and picked.shape[1:] == upstream.shape[1:]:
        return tf.where(tf.math.is_nan(upstream), upstream, picked)
    both = tf.concat([tf.reshape(picked, [-1]), tf.reshape(upstream, [-1])], axis=0)
    return tf.reshape(both[: tf.size(picked)], tf.shape(picked))


def _softsign(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of ``gradients / (1 + |x|)²``, itself the gradient of softsign."""
    gradients, x = operation.inputs
    scaled = upstream / tf.square(1.0 + tf.abs(x))
    return scaled, -2.0 * scaled * gradients * tf.sign(x) / (1.0 + tf.abs(x))


def _cross_entropy(
    operation: tf.Operation, of_loss: tf.Tensor, of_gradient: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of ``loss, softmax(logits) - labels``; TensorFlow omits these labels."""
    stock = framework_ops.gradient_registry.stock("SoftmaxCrossEntropyWithLogits")
    logits, labels = stock(operation, of_loss, of_gradient)
    return logits, labels if of_gradient is None else labels - of_gradient


_RESIZE = ("align_corners", "half_pixel_centers")
CORRECTED: dict[str, Gradient] = {
    "ResizeBilinear": _linear("ResizeBilinear", (), _RESIZE),
    "ResizeNearestNeighbor": _linear("ResizeNearestNeighbor", (), _RESIZE),
    "ResizeBicubic": _linear("ResizeBicubic", (), _RESIZE),
    "ScaleAndTranslate": _linear(
        "ScaleAndTranslate", ("scale", "translation"), ("kernel_type", "antialias")
    ),
    "MaxPoolGrad": _max_pool("MaxPoolGrad"),
    "MaxPoolGradV2": _max_pool("MaxPoolGradV2"),
    "MaxPool3DGrad": _max_pool("MaxPool3DGrad"),
    "Conv2D": convolution,
    "Conv2DBackpropInput": transposed_convolution,
    "SoftsignGrad": _softsign,
    "SoftmaxCrossEntropyWithLogits": _cross_entropy,
}
