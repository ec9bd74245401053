"""The batches of a linearisation, each shown whole to visitors, whoever has its parts."""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_aeos.curvature.replicas import Replicas
from keras_aeos.solvers.vectors import Matvec

# Called with the gradient of a batch and its product with a vector.
Visitor = Callable[[tf.Tensor, Matvec], None]


class Part(NamedTuple):
    """What was computed of a micro-batch, a replica's part of a batch.

    Attributes:
        replica: Which device of this process has it.
        count: Number of examples.
        gradient: Gradient of their loss, shape (n,).
        product: Function that multiplies a vector (n,) by its Hessian.
    """

    replica: int
    count: tf.Tensor
    gradient: tf.Tensor
    product: Matvec


def visit(visitors: Sequence[Visitor], batch: list[Part]) -> None:
    """Show a batch, all parts of which are here, to visitors; and forget it."""
    if not batch:
        return
    gradient, product = batch[0][2:] if len(batch) == 1 else _joined(batch)
    for visitor in visitors:
        visitor(gradient, product)
    batch.clear()


def _joined(batch: Sequence[Part]) -> tuple[tf.Tensor, Matvec]:
    """The gradient and the product of a batch, from those of its parts."""
    _, counts, gradients, products = zip(*batch, strict=True)
    size = tf.cast(tf.add_n(counts), gradients[0].dtype)
    shares = [tf.cast(count, size.dtype) / size for count in counts]

    def product(vector: tf.Tensor) -> tf.Tensor:
        parts = zip(shares, products, strict=True)
        return tf.add_n([share * of_part(vector) for share, of_part in parts])

    return tf.add_n(list(map(operator.mul, shares, gradients))), product


def visit_with_workers(
    visitors: Sequence[Visitor],
    parts: Iterator[Part],
    num_parts: int,
    num_pieces: int,
    replicas: Replicas,
    zero: tf.Tensor,
) -> None:
    """Show batches, of which each worker has parts, to the visitors of every worker.

    All workers call it at the same time. The gradient of a batch and each product with it take one
    all-reduce.

    Args:
        visitors: Functions that ask for the same products in every worker.
        parts: The parts of this worker, made one after the other.
        num_parts: Number of parts of all workers, which their replicas have in turn.
        num_pieces: Number of consecutive parts that make up a batch.
        replicas: The `Replicas`.
        zero: The vector (n,) of zeros.
    """
    for begin in range(0, num_parts, num_pieces):
        numbers = range(begin, min(begin + num_pieces, num_parts))
        batch = _SharedBatch(parts, sum(map(replicas.has, numbers)), replicas, zero)
        gradient = batch.gradient()
        for visitor in visitors:
            visitor(gradient, batch.product)


class _SharedBatch:
    """A batch of several workers, all of which ask for the same at the same time."""

    def __init__(
        self, parts: Iterator[Part], num_here: int, replicas: Replicas, zero: tf.Tensor
    ) -> None:
        self._replicas, self._zero = replicas, zero
        self._parts = replicas.together(lambda: list(itertools.islice(parts, num_here)))
        counts = [float(part.count) for part in self._parts]
        (size,) = replicas.total([sum(counts)])
        self._shares = [count / size for count in counts]

    def gradient(self) -> tf.Tensor:
        return self._sum(lambda part: part.gradient)

    def product(self, vector: tf.Tensor) -> tf.Tensor:
        return self._sum(lambda part: part.product(vector))

    def _sum(self, value: Callable[[Part], tf.Tensor]) -> tf.Tensor:
        """The mean of a value (n,) over the examples of all workers."""

        def here() -> list[tf.Tensor]:
            sums = [self._zero] * len(self._replicas.devices)
            for share, part in zip(self._shares, self._parts, strict=True):
                sums[part.replica] = sums[part.replica] + share * value(part)
            return sums

        return self._replicas.sum(self._replicas.together(here))
