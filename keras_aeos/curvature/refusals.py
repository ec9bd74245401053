"""Which operations of a function have no exact second derivative, and what to do instead."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import tensorflow as tf


class InexactError(ValueError):
    """An operation has no exact second derivative."""


def refuse_inexact(graph: tf.Graph) -> None:
    """Refuse a traced function that is random or not twice differentiable.

    Within `exact_second_derivatives`, most inexact operations are refused when their gradient is
    taken. This function finds the others:

    - random operations that draw new numbers at each evaluation, so that no two products belong to
      the same Hessian;
    - the stock `tf.nn.moments` in functions traced elsewhere, such as those of a SavedModel;
    - gradients that TensorFlow looks up at run time and cannot find, such as the one of the CTC
      loss;
    - a `tf.Variable` that is written and read back.

    Operations that no output of the function depends on are ignored.

    Args:
        graph: The graph of a concrete function, ``concrete_function.graph``.

    Raises:
        InexactError: For such an operation. The message names its layer and the remedy.
    """
    for operation in _operations(graph):
        if operation.op_def.is_stateful and RANDOM.search(operation.type):
            raise InexactError(message(operation.type, operation.name, _RANDOM_DRAWS))
        if operation.type == "SymbolicGradient":
            raise InexactError(message("a gradient", operation.name, NO_SECOND_DERIVATIVE))
        if operation.type == "StopGradient" and _IN_MOMENTS.search(operation.name):
            raise InexactError(message("tf.nn.moments", operation.name, _TRACED_ELSEWHERE))
        if operation.type == "ReadVariableOp" and any(
            other.type.startswith("Assign") and other.inputs[0] is operation.inputs[0]
            for other in operation.control_inputs
        ):
            raise InexactError(message("a state", operation.name, _WRITTEN_VARIABLE))


RANDOM = re.compile("Random|Normal|Uniform|Multinomial|Sampler|^Rng|^SampleDistorted")
_IN_MOMENTS = re.compile(r"(^|/)moments(_\d+)?/StopGradient(_\d+)?$")
_RANDOM_DRAWS = (
    "it draws new random numbers at each evaluation. Draw with `keras.random` and a "
    "`keras.random.SeedGenerator` that is an attribute of the layer."
)
_TRACED_ELSEWHERE = (
    "its second derivative is wrong in a function traced before, or if it is called as "
    "`tf.compat.v1.nn.moments`. Call `tf.nn.moments` from the Python code of the layer."
)
NO_SECOND_DERIVATIVE = (
    "TensorFlow has no second derivative of it. Write the layer or the loss with operations that "
    "have one, or freeze the layers up to this one (`layer.trainable = False`)."
)
STRAIGHT_THROUGH = (
    "its straight-through gradient is not the gradient of any function, so there is no Hessian. "
    "Measure the model without quantisation."
)
ROUNDED = (
    "a custom gradient passes through it as if nothing were rounded. This is not the gradient of "
    "any function, so there is no Hessian. Measure the model without quantisation."
)
STATE_READ_BACK = (
    "it is written and read back in the same forward pass. Training takes what it reads for a "
    "constant, although it depends on the parameters, so its gradient is not the gradient of any "
    "function and there is no Hessian. Read the state before it is written, or use the value "
    "itself, with its gradient."
)
_WRITTEN_VARIABLE = (
    "the forward pass writes a `tf.Variable` and reads it back. A measurement writes nothing, so "
    "it would read the old value. Use a Keras variable (`self.add_weight`)."
)
PYTHON = (
    "TensorFlow cannot see into a Python function, so there is no second derivative. Write it with "
    "TensorFlow or Keras operations, or freeze the layers up to this one "
    "(`layer.trainable = False`)."
)
TAKEN_FOR_CONSTANT = (
    "TensorFlow takes its output for a constant, although it varies with the input, so the "
    "training gradient is not the gradient of the loss and there is no Hessian. Write it with "
    "other operations, or freeze the layers up to this one (`layer.trainable = False`)."
)
# Operations that are refused although TensorFlow has a gradient of them, or declares that none is
# needed.
REFUSED = {
    "PreventGradient": NO_SECOND_DERIVATIVE,
    **dict.fromkeys(
        (
            "FakeQuantWithMinMaxArgs",
            "FakeQuantWithMinMaxVars",
            "FakeQuantWithMinMaxVarsPerChannel",
            "QuantizeAndDequantize",
            "QuantizeAndDequantizeV2",
            "QuantizeAndDequantizeV3",
            "QuantizeAndDequantizeV4",
            "QuantizeAndDequantizeV4Grad",
        ),
        STRAIGHT_THROUGH,
    ),
    **dict.fromkeys(("EagerPyFunc", "PyFunc", "PyFuncStateless"), PYTHON),
    **dict.fromkeys(
        (
            "CTCBeamSearchDecoder",
            "CTCGreedyDecoder",
            "DrawBoundingBoxes",
            "ExtractGlimpse",
            "GenerateBoundingBoxProposals",
            "HSVToRGB",
            "LinSpace",
            "OneHot",
            "RaggedRange",
            "Range",
            "ResizeBilinearGrad",
            "SparseAddGrad",
            "SparseConcat",
        ),
        TAKEN_FOR_CONSTANT,
    ),
}


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Operations that the outputs of a function graph depend on, including called functions."""
    seen: set[tf.Operation] = set()
    graphs = [graph]
    for graph in graphs:  # the loop appends to this list
        todo = [tensor.op for tensor in graph.outputs]
        while todo:
            operation = todo.pop()
            if operation not in seen:
                seen.add(operation)
                yield operation
                todo += [tensor.op for tensor in operation.inputs]
                graphs += [body for body in _bodies(operation) if body not in graphs]


def _bodies(operation: tf.Operation) -> Iterator[tf.Graph]:
    """Graphs of the functions that an operation calls, such as a partitioned call or a loop."""
    for attribute in operation.node_def.attr.values():
        for function in [attribute.func, *attribute.list.func]:
            called = operation.graph._get_function(function.name) if function.name else None
            body = getattr(called, "graph", None)
            if body is not None:
                yield body


def message(kind: str, name: str, remedy: str) -> str:
    """The text of an `InexactError` about an operation of the given name."""
    # Keras opens a layer's scope once to build it and once to call it; TensorFlow numbers these.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in name.split("/")[:-1]]
    path = "/".join(scope for scope in scopes if scope not in ("gradient_tape", "gradients"))
    where = f"in layer {path!r}" if path else "outside any layer"
    return f"No exact Hessian: {kind} {where}: {remedy} Received: operation={name!r}"


def refuse(kind: str, remedy: str, operation: Any, *_: Any) -> NoReturn:
    """Raise in place of the gradient of an operation, from a graph or as recorded by a tape."""
    scope = tf.get_current_name_scope()
    name = getattr(operation, "name", None) or (f"{scope}/{kind}" if scope else kind)
    raise InexactError(message(kind, name, remedy))


def rounding(operations: Sequence[tf.Operation], args: Sequence[tf.Tensor]) -> tf.Operation | None:
    """The first of some operations that rounds what depends on `args`; None if there is none.

    Args:
        operations: Operations of a graph in the order of creation.
        args: Tensors of the graph.
    """
    dependent = {id(tensor) for tensor in args}
    for operation in operations:
        if any(id(tensor) in dependent for tensor in operation.inputs):
            if operation.type in ("Round", "Rint") or _quantises(operation):
                return operation
            dependent.update(id(tensor) for tensor in operation.outputs)
    return None


def _quantises(operation: tf.Operation) -> bool:
    """Whether an operation casts floating-point numbers to integers or to float8."""
    if operation.type != "Cast" or not operation.inputs[0].dtype.is_floating:
        return False
    dtype = operation.outputs[0].dtype
    return dtype.is_integer or (dtype.is_floating and dtype.size == 1)
