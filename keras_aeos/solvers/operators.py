"""Operators whose products can be part of a graph."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """How an operator multiplies, whatever the numbers that it consists of.

    Args:
        product: Function ``(vector, *state) -> product`` that TensorFlow can trace. Vector and
            product have the shape (n,); the state is a list of tensors.

    Attributes:
        traces: Solves of operators with this program, by the shapes of their state. They live as
            long as the program.
    """

    product: Callable[..., tf.Tensor]
    traces: dict[Any, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric operator A: a `Program` and the tensors that it takes beside the vector.

    A solver runs all its products in one graph. Operators that share their program, as those of one
    model at several points do, share the trace.

    Args:
        program: A `Program`.
        state: List of tensors.
    """

    program: Program
    state: list[tf.Tensor]

    def __call__(self, vector: tf.Tensor) -> tf.Tensor:
        """``A v`` for a vector of shape (n,)."""
        return self.program.product(vector, *self.state)

    def run(self, function: Callable[..., Any], specs: Any, *arguments: Any) -> Any:
        """Call ``function(product, *arguments)`` in one graph, traced once for the program.

        Args:
            function: Function whose first argument is the operator as a function of a vector.
            specs: The signature of the other arguments, nests of `tf.TensorSpec`.
            *arguments: The other arguments.
        """
        state = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self.state]
        key = (function, *((tuple(spec.shape), spec.dtype) for spec in state))
        if key not in self.program.traces:
            product = self.program.product

            def traced(given: Any, state: list[tf.Tensor]) -> Any:
                return function(lambda vector: product(vector, *state), *given)

            # Traced before it is called: TensorFlow counts the traces of calls together with those
            # of other models, and warns after five.
            self.program.traces[key] = tf.function(
                traced, input_signature=[tuple(specs), state], autograph=False
            ).get_concrete_function()
        return self.program.traces[key](arguments, self.state)
