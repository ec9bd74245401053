"""Straight-through estimates written with `tf.stop_gradient`."""

import tensorflow as tf

STRAIGHT_THROUGH = (
    "x + stop_gradient(f(x) - x) has the value of f(x) and the gradient of x. This is not the "
    "gradient of any function, so there is no Hessian. Measure the model without it, with f(x) or "
    "x alone."
)


def is_straight_through(operation: tf.Operation) -> bool:
    """Whether a sum or difference has the value of one term and the gradient of another.

    These are ``x + stop_gradient(y - x)`` and ``x - stop_gradient(x - y)``, in any order.

    Args:
        operation: An operation of a graph of type "AddV2", "Add" or "Sub".
    """
    first, second = operation.inputs
    if operation.type == "Sub":
        return _stopped_difference(second, minuend=first)
    return _stopped_difference(second, subtrahend=first) or _stopped_difference(
        first, subtrahend=second
    )


def _stopped_difference(
    tensor: tf.Tensor, minuend: tf.Tensor | None = None, subtrahend: tf.Tensor | None = None
) -> bool:
    """Whether a tensor is a difference with the given term, behind a `tf.stop_gradient`."""
    stop = getattr(tensor, "op", None)  # a tensor outside of graphs has none
    if stop is None or stop.type != "StopGradient" or stop.inputs[0].op.type != "Sub":
        return False
    left, right = stop.inputs[0].op.inputs
    return left is minuend or right is subtrahend
