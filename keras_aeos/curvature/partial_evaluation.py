"""Partial evaluation of a traced function: what one argument doesn't touch is computed once."""

import functools

import tensorflow as tf

# Operations that are repeated for every argument rather than kept: their input has to be kept
# anyway, they cost little, and TensorFlow's fast gradient kernels need them in the same graph.
_REPEATED = ("MaxPool", "MaxPool3D")
# Values that can't leave the graph in which they are made: loops keep their stacks in variants.
_BOUND = (tf.variant, tf.resource)


class PartialEvaluation:
    """A function ``f(v, *rest) -> (*fixed, product)``, taken apart by what depends on v.

    With f linear in v, as a Hessian-vector product is, this is its linearisation: `first` computes
    for given `rest` the outputs `fixed`, which don't depend on v, and every intermediate value
    that the product needs and that doesn't depend on v either; `second` goes on from there for any
    number of vectors.

    Args:
        function: A concrete function with flat tensor arguments, v the first of them, and flat
            outputs, the product the last of them.

    Attributes:
        linearisable: Whether `first` and `second` can be used: not where an intermediate value is
            bound to its graph, as the stacks of loops are.
    """

    def __init__(self, function):
        self._graph = function.graph
        self._definition = function.graph.as_graph_def()
        self._captures = function.captured_inputs
        self._vector, *self._rest = function.graph.inputs
        *self._outputs, self._product = function.graph.outputs
        self._values = _values(self._graph, self._vector, self._product)
        self.linearisable = not any(value.dtype in _BOUND for value in self._values)

    def fixed(self, *rest):
        """The outputs that don't depend on v."""
        return self._fixed(*rest, *self._captures)

    def first(self, *rest):
        """The outputs that don't depend on v, and the values that `second` goes on from."""
        outputs = self._first(*rest, *self._captures)
        return outputs[: len(self._outputs)], outputs[len(self._outputs) :]

    def second(self, vector, values):
        """The product of `vector`."""
        return self._second(vector, *values)[0]

    def whole(self, vector, *rest):
        """The product of `vector`, with nothing kept."""
        return self._whole(vector, *rest, *self._captures)[0]

    @functools.cached_property
    def _fixed(self):
        return self._part(self._rest, self._outputs)

    @functools.cached_property
    def _first(self):
        return self._part(self._rest, [*self._outputs, *self._values])

    @functools.cached_property
    def _second(self):
        return self._part([self._vector, *self._values], [self._product])

    @functools.cached_property
    def _whole(self):
        return self._part([self._vector, *self._rest], [self._product])

    def _part(self, feeds, fetches):
        """What computes `fetches` from `feeds`, as a concrete function.

        Control edges are left out: of what has side effects only what the fetches need is taken.
        """
        fed = {tensor.name: f"fed_{index}:0" for index, tensor in enumerate(feeds)}
        needed, todo = set(), [tensor.op for tensor in fetches if tensor.name not in fed]
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
                copy.attr.pop("_class", None)  # wishes to stay with nodes that may be left out
                del copy.input[:]
                for name in node.input:
                    if not name.startswith("^"):
                        copy.input.append(fed.get(name if ":" in name else f"{name}:0", name))
        used = {name for node in definition.node for name in node.input}
        computed = [tensor.name for tensor in fetches if tensor.name not in fed]

        def compute(*arguments):
            given = dict(zip(fed, arguments, strict=True))
            imported = tf.graph_util.import_graph_def(
                definition,
                input_map={fed[name]: given[name] for name in fed if fed[name] in used},
                return_elements=computed,
                name="part",
            )
            results = {**given, **dict(zip(computed, imported, strict=True))}
            return [results[tensor.name] for tensor in fetches]

        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in feeds]
        return tf.function(
            compute, input_signature=signature, autograph=False
        ).get_concrete_function()


def _values(graph, vector, product):
    """Tensors that don't depend on `vector` and that computing `product` from it needs."""
    dependent = {vector.name}
    for operation in graph.get_operations():  # in the order in which they were made
        if any(tensor.name in dependent for tensor in operation.inputs):
            dependent.update(tensor.name for tensor in operation.outputs)
    if product.name not in dependent:
        return [product]
    values = {}
    seen, todo = set(), [product.op]
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
