"""Gradients of strided 1 × 1 convolutions that don't use a faulty kernel of TensorFlow's."""

import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.util import _pywrap_util_port

# Fewer channels than a vector register holds, and the kernel writes beyond its work space.
_NUM_SAFE_CHANNELS = 16
_ATTRIBUTES = ("strides", "padding", "dilations", "data_format", "explicit_paddings")


def convolution(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of a convolution by its image and its filters."""
    image, filters = operation.inputs
    if not _strided_pointwise(operation, filters):
        return framework_ops.gradient_registry.stock("Conv2D")(operation, upstream)
    of_image = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(image),
        filter=filters,
        out_backprop=upstream,
        **_attributes(operation),
    )
    return of_image, _of_filters(operation, image, filters, upstream)


def transposed_convolution(
    operation: tf.Operation, upstream: tf.Tensor
) -> tuple[None, tf.Tensor, tf.Tensor]:
    """Gradient of a transposed convolution by its filters and its input."""
    _, filters, inputs = operation.inputs
    if not _strided_pointwise(operation, filters):
        return framework_ops.gradient_registry.stock("Conv2DBackpropInput")(operation, upstream)
    of_inputs = tf.raw_ops.Conv2D(input=upstream, filter=filters, **_attributes(operation))
    return None, _of_filters(operation, upstream, filters, inputs), of_inputs


def _attributes(operation: tf.Operation) -> dict[str, Any]:
    return {name: operation.get_attr(name) for name in _ATTRIBUTES}


def _strides(operation: tf.Operation) -> tuple[int, int]:
    """Strides of height and width."""
    strides = operation.get_attr("strides")
    channels_last = operation.get_attr("data_format") == b"NHWC"
    return tuple(strides[1:3] if channels_last else strides[2:4])


def _strided_pointwise(operation: tf.Operation, filters: tf.Tensor) -> bool:
    return (
        filters.shape[:2] == (1, 1)
        and max(_strides(operation)) > 1
        and operation.get_attr("padding") != b"EXPLICIT"
    )


def _of_filters(
    operation: tf.Operation, image: tf.Tensor, filters: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    """Gradient by 1 × 1 filters: that of a dense convolution of the pixels that they meet.

    Its own derivatives are strided convolutions, which are not faulty and take no detour.
    """
    _warn(filters)
    attributes, sizes = _attributes(operation), tf.shape(filters)

    @tf.custom_gradient
    def of_filters(
        image: tf.Tensor, upstream: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def gradient(direction: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_image = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(image),
                filter=direction,
                out_backprop=upstream,
                **attributes,
            )
            return of_image, tf.raw_ops.Conv2D(input=image, filter=direction, **attributes)

        result = tf.raw_ops.Conv2DBackpropFilter(
            input=_met(operation, image),
            filter_sizes=sizes,
            out_backprop=upstream,
            **attributes | {"strides": [1, 1, 1, 1]},
        )
        return result, gradient

    return of_filters(image, upstream)


def _met(operation: tf.Operation, image: tf.Tensor) -> tf.Tensor:
    """The pixels that strided 1 × 1 filters meet."""
    height, width = _strides(operation)
    if operation.get_attr("data_format") == b"NHWC":  # several times as fast as a slice
        return tf.nn.avg_pool2d(image, 1, (height, width), "VALID")
    return image[:, :, ::height, ::width]


def _warn(filters: tf.Tensor) -> None:
    faulty = filters.dtype != tf.float64 and filters.shape[2] < _NUM_SAFE_CHANNELS
    if faulty and _pywrap_util_port.IsMklEnabled() and not tf.config.list_logical_devices("GPU"):
        warnings.warn(
            "TensorFlow may train this model with a wrong gradient. On processors its oneDNN "
            "kernel for the filters of a strided 1 × 1 convolution overwrites memory if there are "
            "fewer input channels than a vector register holds, 8 or 16 "
            "(https://github.com/uxlfoundation/oneDNN/issues/6035). The curvature is that of the "
            "loss, without this fault. Set the environment variable TF_ENABLE_ONEDNN_OPTS=0 "
            "before TensorFlow is imported, or put `AveragePooling2D(1, strides)` before a "
            "convolution with strides of 1. "
            f"Received: a strided 1 × 1 convolution of {filters.shape[2]} channels",
            stacklevel=2,
        )
