"""The products of a linearisation as a `Program`, which a solver makes part of its graph."""

from collections.abc import Iterable, Sequence

import tensorflow as tf

from keras_aeos.curvature.partial_evaluation import PartialEvaluation
from keras_aeos.curvature.replicas import Replicas
from keras_aeos.solvers.operators import Operator, Program

# Of one replica: the share of each of its micro-batches in all examples, and its kept values.
Share = tuple[Sequence[tf.Tensor], Sequence[Sequence[tf.Tensor]]]


def program(parts: PartialEvaluation, replicas: Replicas) -> Program:
    """How ``S H S`` multiplies a vector, given the state that `operator` packs.

    For each replica the graph holds one product of a micro-batch, however many there are: a loop
    takes the kept values of one after the other from lists. With a single micro-batch there is no
    loop. One sum joins the replicas.
    """

    def product(vector: tf.Tensor, scale: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        vector = tf.ensure_shape(scale * vector, scale.shape)
        remaining, products = iter(state), []
        for index, copy in enumerate(replicas.copies(vector)):
            weights = next(remaining)
            kept = [next(remaining) for _ in parts.value_specs] if weights.shape[0] else []
            with replicas.on(index):
                products.append(_of_share(parts, copy, weights, kept, replicas.alone))
        return scale * replicas.sum(products)

    return Program(product)


def _of_share(
    parts: PartialEvaluation,
    vector: tf.Tensor,
    weights: tf.Tensor,
    kept: Sequence[tf.Tensor],
    alone: bool,
) -> tf.Tensor:
    """``Σ_b w_b H_b v`` over the micro-batches of one replica."""
    if weights.shape == (0,):
        return tf.zeros_like(vector)
    if weights.shape == (1,):
        product = parts.second(vector, kept)
        return product if alone else weights[0] * product

    def add(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = [
            tf.raw_ops.TensorListGetItem(
                input_handle=handle,
                index=index,
                element_shape=_sizes(spec),
                element_dtype=spec.dtype,
            )
            for handle, spec in zip(kept, parts.value_specs, strict=True)
        ]
        return index + 1, total + weights[index] * parts.second(vector, values)

    _, total = tf.while_loop(
        lambda index, _: index < tf.size(weights),
        add,
        (tf.constant(0), tf.zeros_like(vector)),
        parallel_iterations=1,
    )
    return total


def operator(
    of: Program,
    parts: PartialEvaluation,
    replicas: Replicas,
    scale: tf.Tensor,
    shares: Iterable[Share],
) -> Operator:
    """``S H S`` with a diagonal S, for a solver.

    Args:
        of: The `program` of the parts and the replicas.
        parts: The `PartialEvaluation`.
        replicas: The `Replicas`.
        scale: Diagonal of S, shape (n,).
        shares: The `Share` of each replica of this process.
    """
    state = [scale]
    for index, (weights, kept) in enumerate(shares):
        with replicas.on(index):
            state.append(tf.stack(weights) if weights else tf.zeros([0], scale.dtype))
            state += kept[0] if len(kept) == 1 else _lists(parts, kept)
    return Operator(of, state)


def _lists(parts: PartialEvaluation, kept: Sequence[Sequence[tf.Tensor]]) -> list[tf.Tensor]:
    """A list for each kept value, with an element for each micro-batch."""
    return [
        _list(spec, values)
        for spec, values in zip(parts.value_specs, zip(*kept, strict=True), strict=False)
    ]


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
