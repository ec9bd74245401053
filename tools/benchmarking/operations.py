"""A class for every operation of TensorFlow: how a measurement treats its second derivative."""

import csv
import io
import zlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import ops

from keras_aeos.curvature import corrections, refusals, second_derivatives
from tools.benchmarking.samples import ONCE, SAMPLES, SINGLE, Sample

CLASSES = {
    "exact": "compared with differences of the gradient",
    "corrected": "its gradient is replaced, and compared with differences of the gradient",
    "missing": "refused: no second derivative",
    "straight-through": "refused: its gradient is not that of its values",
    "opaque": "refused: a Python function",
    "taken for constant": "refused: no gradient passes, although the output varies",
    "constant": "no gradient passes, and the output is constant or piecewise constant",
    "discrete": "no floating-point input that acts on a floating-point output",
    "random": "refused: it draws new numbers at each evaluation",
    "graph": "TensorFlow 1, reference variables, or bookkeeping of loops and lists",
    "device": "needs another device, compiler or cluster",
    "not compared": "TensorFlow has a gradient, but no sample compares it",
}
_DEVICE = (
    "Xla",
    "TPU",
    "Nccl",
    "Cudnn",
    "Collective",
    "CrossReplica",
    "AllToAll",
    "Relayout",
    "CopyToMesh",
)
_GRAPH = (
    "Ref",
    "TensorArray",
    "TensorList",
    "Case",
    "If",
    "While",
    "Enter",
    "Exit",
    "NextIteration",
    "Merge",
    "Switch",
    "Stack",
    "Debug",
    "_EagerConst",
    "LoopCond",
    "Optional",
    "CompositeTensor",
    "BatchNormWithGlobalNormalization",
    "ReadVariableOp",
    "ResourceGather",
)


def definitions() -> list[op_def_pb2.OpDef]:
    """The operations that the installed TensorFlow has registered."""
    buffer = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return sorted(op_def_pb2.OpList.FromString(buffer).op, key=lambda o: o.name)


def compare() -> tuple[dict[str, float], set[str]]:
    """Compare all samples with differences of the gradient.

    Returns:
        The relative error of the product of each sample, and the operations whose gradients the
        exact products took.
    """
    double, seen = _errors(SAMPLES, tf.float64, 1e-4)
    single, also_seen = _errors(SINGLE, tf.float32, 2e-3)
    return double | single, seen | also_seen


def _errors(
    samples: dict[str, Sample], dtype: tf.DType, step: float
) -> tuple[dict[str, float], set[str]]:
    # Each sample has its own numbers, whatever the others are.
    generators = [np.random.default_rng(zlib.crc32(name.encode())) for name in samples]
    points, directions = (
        [tf.constant(generator.standard_normal((4, 4)), dtype) for generator in generators]
        for _ in range(2)
    )

    def gradient(x: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = tf.add_n(
                [_total(sample(t), dtype) for sample, t in zip(samples.values(), x, strict=True)]
            )
        dense = tape.gradient(value, x, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in dense]

    def product(x: list[tf.Tensor], v: list[tf.Tensor]) -> list[tf.Tensor]:
        with (
            second_derivatives.exact_second_derivatives(),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(x)
            dense = tape.gradient(gradient(x), x, v, unconnected_gradients="zero")
        return [tf.convert_to_tensor(p) for p in dense]

    seen: set[str] = set()
    stock = second_derivatives._Gradients.lookup

    def lookup(registry: second_derivatives._Gradients, name: str) -> corrections.Gradient:
        found = stock(registry, name)
        if found is not None:
            seen.add(name)
        return found

    with mock.patch.object(second_derivatives._Gradients, "lookup", lookup):
        products = tf.function(product, autograph=False)(points, directions)
    traced = tf.function(gradient, autograph=False)

    def at(factor: float) -> list[np.ndarray]:
        moved = [p + factor * v for p, v in zip(points, directions, strict=True)]
        return [np.asarray(g, "float64") for g in traced(moved)]

    near, far = ([a - b for a, b in zip(at(s), at(-s), strict=True)] for s in (step, 2.0 * step))
    errors = {}
    for name, p, n, f in zip(samples, products, near, far, strict=True):
        difference = (8.0 * n - f) / (12.0 * step)
        size = np.linalg.norm(difference) or 1.0
        errors[name] = float(np.linalg.norm(np.asarray(p, "float64") - difference) / size)
    return errors, seen


def _total(output: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """A smooth function of an output, a scalar."""
    output = tf.cast(tf.reshape(output, [-1]), dtype)
    weights = tf.cos(tf.cast(tf.range(tf.size(output)), dtype))
    return tf.reduce_sum(weights * tf.sin(output))


def classify(exact: set[str]) -> Iterator[tuple[str, str]]:
    """Every operation of the installed TensorFlow with its class.

    Args:
        exact: The operations of exact products, from `compare`.
    """
    registry = ops.gradient_registry._registry
    remedies = {
        refusals.STRAIGHT_THROUGH: "straight-through",
        refusals.PYTHON: "opaque",
        refusals.TAKEN_FOR_CONSTANT: "taken for constant",
        refusals.NO_SECOND_DERIVATIVE: "missing",
    }
    for definition in definitions():
        name = definition.name
        known = name in registry
        passes = _passes(definition)
        if name in corrections.CORRECTED:
            kind = "corrected"
        elif name in refusals.REFUSED:
            kind = remedies[refusals.REFUSED[name]]
        elif definition.is_stateful and refusals.RANDOM.search(name):
            kind = "random"
        elif name in ONCE:
            kind = "missing"
        elif name in exact:
            kind = "exact"
        elif name.startswith(_DEVICE):
            kind = "device"
        elif known and registry[name]["type"] is None:
            kind = "constant" if passes else "discrete"
        elif known and _counts(definition):
            kind = "discrete"
        elif name.startswith(_GRAPH) or name == "TopK":
            kind = "graph"
        elif known:
            kind = "not compared"
        else:
            kind = "missing" if passes else "discrete"
        yield name, kind


def _passes(definition: op_def_pb2.OpDef) -> bool:
    """Whether an operation has floating-point inputs and floating-point outputs."""

    def floating(argument: op_def_pb2.OpDef.ArgDef) -> bool:
        types = _types(definition, argument)
        return not types or any(t.is_floating or t.is_complex for t in types)

    return any(map(floating, definition.input_arg)) and any(map(floating, definition.output_arg))


def _counts(definition: op_def_pb2.OpDef) -> bool:
    """Whether all outputs of an operation are integers."""
    types = [_types(definition, argument) for argument in definition.output_arg]
    return bool(types) and all(kinds and all(t.is_integer for t in kinds) for kinds in types)


def _types(definition: op_def_pb2.OpDef, argument: op_def_pb2.OpDef.ArgDef) -> set[tf.DType]:
    """The types that an argument may have; empty for all."""
    if argument.type:
        return {tf.as_dtype(argument.type)}
    name = argument.type_attr or argument.type_list_attr
    (allowed,) = (a.allowed_values.list.type for a in definition.attr if a.name == name)
    return {tf.as_dtype(t) for t in allowed}


def table() -> str:
    """The classes of all operations as a CSV table."""
    errors, exact = compare()
    off = {name: error for name, error in errors.items() if error > tolerance(name)}
    if off:
        raise ValueError(f"These samples are not exact, so nothing is classified: {off}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("operation", "class"))
    writer.writerows(classify(exact))
    return text.getvalue()


def tolerance(name: str) -> float:
    """The largest error of a sample that rounding of the differences explains."""
    return 1e-3 if name in SINGLE else 1e-6
