"""Partial evaluation of a traced function: values independent of one argument are computed once."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

# Operations that are repeated for every vector rather than kept. They cost little, and their input
# is kept anyway. TensorFlow's fast gradient kernels need pooling in the same graph; a reshaped
# tensor shares the memory of its input.
_REPEATED = ("MaxPool", "MaxPool3D", "Reshape")
# Types of values that cannot leave their graph. Loops keep their stacks in variants.
_BOUND = (tf.variant, tf.resource)


class PartialEvaluation:
    """A function ``f(v, *rest) -> (*fixed, product)``, split into parts with and without v.

    If f is linear in v, as a Hessian-vector product is, the split is its linearisation. For given
    `rest`, `first` computes everything that does not depend on v: the outputs `fixed` and the
    intermediate values that the product needs. `second` continues from these values, for any number
    of vectors.

    Args:
        function: A concrete function with flat tensor arguments, v first, and flat outputs, the
            product last.

    Attributes:
        linearisable: Whether `first` and `second` can be used. They cannot if an intermediate value
            is bound to its graph, as the stacks of loops are.
        vector_spec: Shape and dtype of v.
        value_specs: Shapes and dtypes of these values.
        compiled: Whether `second` is compiled by XLA, False at first.
    """

    def __init__(self, function: ConcreteFunction) -> None:
        self._graph = function.graph
        self._definition = function.graph.as_graph_def()
        self._captures = function.captured_inputs
        self._vector, *self._rest = function.graph.inputs
        *self._outputs, self._product = function.graph.outputs
        self._values = _values(self._graph, self._vector, self._product)
        self.vector_spec = tf.TensorSpec(self._vector.shape, self._vector.dtype)
        self.value_specs = [tf.TensorSpec(v.shape, v.dtype) for v in self._values]
        self.linearisable = not any(value.dtype in _BOUND for value in self._values)
        self.compiled = False
        self._density: float | None = None  # bytes of values for an entry of the inputs

    def fixed(self, *rest: tf.Tensor) -> list[tf.Tensor]:
        """The outputs that do not depend on v."""
        return self._fixed(*rest, *self._captures)

    def first(self, *rest: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The outputs that do not depend on v, and the values that `second` continues from."""
        outputs = self._first(*rest, *self._captures)
        return outputs[: len(self._outputs)], outputs[len(self._outputs) :]

    def num_bytes(self, *rest: tf.Tensor) -> int:
        """Bytes of the values of `first`, known before they are computed.

        Where the graph doesn't know their shapes, it is exact for the first `rest` given, and for
        others in proportion to the inputs whose shapes it doesn't know.
        """
        known = sum(num_bytes([value]) or 0 for value in self._values)
        if num_bytes(self._values) is not None:
            return known
        shapes = {
            fed.name: given.shape
            for fed, given in zip(self._rest, rest, strict=False)  # captures come after `rest`
            if not fed.shape.is_fully_defined()
        }
        num_entries = sum(shape.num_elements() for shape in shapes.values())
        if self._density is None:
            values = self._part(self._rest, self._values, shapes).outputs
            size = sum(num_bytes([value]) or 0 for value in values)
            self._density = (size - known) / max(1, num_entries)
        return known + round(self._density * num_entries)

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile `second`: it does so for each shape, and not for max pooling.

        XLA's second derivative of max pooling is wrong.
        """
        library = (node for f in self._definition.library.function for node in f.node_def)
        operations = itertools.chain(self._definition.node, library)
        return num_bytes(self._values) is not None and not any(
            operation.op.startswith("MaxPool") for operation in operations
        )

    @property
    def num_operations(self) -> int:
        """Operations of `second`."""
        return len(self._second.graph.get_operations())

    def second(self, vector: tf.Tensor, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """The product with `vector`, from the values of `first`."""
        return (self._compiled if self.compiled else self._second)(vector, *values)[0]

    def whole(self, vector: tf.Tensor, *rest: tf.Tensor) -> tf.Tensor:
        """The product with `vector`, without kept values."""
        return self._whole(vector, *rest, *self._captures)[0]

    @functools.cached_property
    def _fixed(self) -> ConcreteFunction:
        return self._part(self._rest, self._outputs)

    @functools.cached_property
    def _first(self) -> ConcreteFunction:
        return self._part(self._rest, [*self._outputs, *self._values])

    @functools.cached_property
    def _second(self) -> ConcreteFunction:
        return self._part([self._vector, *self._values], [self._product])

    @functools.cached_property
    def _compiled(self) -> Callable[..., list[tf.Tensor]]:
        return tf.function(self._second, jit_compile=True, autograph=False)

    @functools.cached_property
    def _whole(self) -> ConcreteFunction:
        return self._part([self._vector, *self._rest], [self._product])

    def _part(
        self,
        feeds: Sequence[tf.Tensor],
        fetches: Sequence[tf.Tensor],
        shapes: Mapping[str, tf.TensorShape] = MappingProxyType({}),
    ) -> ConcreteFunction:
        """A concrete function that computes `fetches` from `feeds`, some of them of given `shapes`.

        Control edges are left out, so operations with side effects run only if the fetches need
        their results.
        """
        fed = {tensor.name: f"fed_{index}:0" for index, tensor in enumerate(feeds)}
        needed: set[str] = set()
        todo = [tensor.op for tensor in fetches if tensor.name not in fed]
        while todo:
            operation = todo.pop()
            if operation.name not in needed:
                needed.add(operation.name)
                todo += [tensor.op for tensor in operation.inputs if tensor.name not in fed]

        definition = tf.compat.v1.GraphDef(
            versions=self._definition.versions, library=self._definition.library
        )
        for node in self._definition.node:
            if node.name in needed:
                copy = definition.node.add()
                copy.CopyFrom(node)
                copy.attr.pop("_class", None)  # asks to be placed with nodes that may be left out
                del copy.input[:]
                for name in node.input:
                    if not name.startswith("^"):
                        copy.input.append(fed.get(name if ":" in name else f"{name}:0", name))
        used = {name for node in definition.node for name in node.input}
        computed = [tensor.name for tensor in fetches if tensor.name not in fed]

        def compute(*arguments: tf.Tensor) -> list[tf.Tensor]:
            given = dict(zip(fed, arguments, strict=True))
            imported = tf.graph_util.import_graph_def(
                definition,
                input_map={fed[name]: given[name] for name in fed if fed[name] in used},
                return_elements=computed,
                name="part",
            )
            results = {**given, **dict(zip(computed, imported, strict=True))}
            return [results[tensor.name] for tensor in fetches]

        signature = [tf.TensorSpec(shapes.get(t.name, t.shape), t.dtype) for t in feeds]
        return tf.function(
            compute, input_signature=signature, autograph=False
        ).get_concrete_function()


def num_bytes(tensors: Iterable[tf.Tensor]) -> int | None:
    """Bytes of tensors, from their shapes alone; None if these aren't all known."""
    total = 0
    for tensor in tensors:
        if not tensor.shape.is_fully_defined():
            return None
        total += tensor.dtype.size * tensor.shape.num_elements()
    return total


def _values(graph: tf.Graph, vector: tf.Tensor, product: tf.Tensor) -> list[tf.Tensor]:
    """Tensors that do not depend on `vector` but are needed to compute `product` from it."""
    dependent = {vector.name}
    for operation in graph.get_operations():  # in the order of creation
        if any(tensor.name in dependent for tensor in operation.inputs):
            dependent.update(tensor.name for tensor in operation.outputs)
    if product.name not in dependent:
        return [product]
    values: dict[str, tf.Tensor] = {}
    seen: set[str] = set()
    todo = [product.op]
    while todo:
        operation = todo.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        for tensor in operation.inputs:
            repeated = tensor.op.type == "Const" or tensor.op.type in _REPEATED
            if tensor.name in dependent or repeated:
                todo.append(tensor.op)
            else:
                values[tensor.name] = tensor
    return list(values.values())
