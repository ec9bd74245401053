"""The products of a linearisation as a `Program`, which a solver makes part of its graph."""

from collections.abc import Sequence

import tensorflow as tf

from keras_aeos.curvature.partial_evaluation import PartialEvaluation
from keras_aeos.solvers.operators import Operator, Program


def program(parts: PartialEvaluation) -> Program:
    """How ``S H S`` multiplies a vector, given the state that `operator` packs.

    The graph holds one product of a micro-batch, however many there are: a loop takes the kept
    values of one after the other from lists. With a single micro-batch there is no loop.
    """
    specs = parts.value_specs

    def product(
        vector: tf.Tensor, scale: tf.Tensor, weights: tf.Tensor, *kept: tf.Tensor
    ) -> tf.Tensor:
        vector = tf.ensure_shape(scale * vector, scale.shape)
        if weights.shape == (1,):
            return scale * parts.second(vector, kept)

        def add(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values = [
                tf.raw_ops.TensorListGetItem(
                    input_handle=handle,
                    index=index,
                    element_shape=_sizes(spec),
                    element_dtype=spec.dtype,
                )
                for handle, spec in zip(kept, specs, strict=True)
            ]
            return index + 1, total + weights[index] * parts.second(vector, values)

        _, total = tf.while_loop(
            lambda index, _: index < tf.size(weights),
            add,
            (tf.constant(0), tf.zeros_like(scale)),
            parallel_iterations=1,
        )
        return scale * total

    return Program(product)


def operator(
    of: Program,
    parts: PartialEvaluation,
    scale: tf.Tensor,
    weights: Sequence[tf.Tensor],
    kept: Sequence[Sequence[tf.Tensor]],
) -> Operator:
    """``S H S`` with a diagonal S, for a solver.

    Args:
        of: The `program` of the parts.
        parts: The `PartialEvaluation`.
        scale: Diagonal of S, shape (n,).
        weights: Share of each micro-batch in all examples.
        kept: The values of each micro-batch.
    """
    if len(kept) == 1:
        return Operator(of, [scale, tf.stack(weights), *kept[0]])
    lists = [
        _list(spec, values)
        for spec, values in zip(parts.value_specs, zip(*kept, strict=True), strict=True)
    ]
    return Operator(of, [scale, tf.stack(weights), *lists])


def _list(spec: tf.TensorSpec, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Handle of a list of tensors, which refers to them without a copy."""
    handle = tf.raw_ops.TensorListReserve(
        element_shape=_sizes(spec), num_elements=len(tensors), element_dtype=spec.dtype
    )
    for index, tensor in enumerate(tensors):
        handle = tf.raw_ops.TensorListSetItem(input_handle=handle, index=index, item=tensor)
    return handle


def _sizes(spec: tf.TensorSpec) -> tf.Tensor:
    """A shape as list operations take it: -1 for what is not known."""
    if spec.shape.rank is None:
        return tf.constant(-1)
    return tf.constant([-1 if size is None else size for size in spec.shape], tf.int32)
