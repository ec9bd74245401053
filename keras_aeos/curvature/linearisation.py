"""Loss, gradient and Hessian of an objective at one point, shared by the replicas."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from keras_aeos.curvature import batch_visits, programs
from keras_aeos.curvature.batch_visits import Part, Visitor
from keras_aeos.curvature.batches import MicroBatches, moved
from keras_aeos.curvature.partial_evaluation import PartialEvaluation, num_bytes
from keras_aeos.curvature.replicas import Replicas
from keras_aeos.solvers.operators import Program
from keras_aeos.solvers.vectors import Matvec


class Linearisation:
    """Loss, gradient and Hessian-vector products of an `Objective` at fixed parameters.

    The Hessian is applied to a vector as the derivative of the gradient along it, reverse over
    reverse. What does not depend on the vector is computed once, here, and kept for as many
    micro-batches as `kept_bytes` hold; for the others it is computed again. A product
    then costs less than a gradient of a gradient, and memory does not grow with the number of
    examples. Each replica keeps the values of its own micro-batches.

    Args:
        program: The products as a solver's graph holds them.
        parts: The product of one micro-batch.
        replicas: The `Replicas` that share the work, at their parameters.
        batches: The micro-batches.
        room: Function from a device to the bytes of values that may be kept there.
        visitors: Called with each batch, as for `Objective.linearise`.

    Attributes:
        loss: f(x), a float.
        gradient: ∇f(x), a tensor (n,).
        num_products: Products over all examples. A solve of an `operator` has to be added.
        kept: The values that are kept of the first micro-batches.
    """

    def __init__(
        self,
        program: Program,
        parts: PartialEvaluation,
        replicas: Replicas,
        batches: MicroBatches,
        room: Callable[[str], int],
        visitors: Sequence[Visitor] = (),
    ) -> None:
        self.num_products = 0
        self.kept: list[list[tf.Tensor]] = []
        self._program = program
        self._parts = parts
        self._replicas = replicas
        self._batches = batches
        self._parameters = replicas.parameters()
        counts, loss, gradients = replicas.together(lambda: self._evaluate(room, visitors))
        num_examples, loss, num_kept, num_parts = replicas.total(
            [float(sum(counts)), loss, float(len(self.kept)), float(len(counts))]
        )
        if not num_examples:
            raise ValueError(
                "`data` must hold at least one batch. Received: a data set that yielded none"
            )
        self.loss = loss / num_examples
        self.gradient: tf.Tensor = replicas.sum(gradients) / num_examples
        self._all_kept = num_kept == num_parts
        self._weights = [
            tf.constant(count / num_examples, parts.vector_spec.dtype) for count in counts
        ]
        if visitors and replicas.of_workers:
            zero = tf.zeros_like(self.gradient)
            here, num_pieces = self._parts_here(), batches.num_pieces
            batch_visits.visit_with_workers(
                visitors, here, round(num_parts), num_pieces, replicas, zero
            )

    def _evaluate(
        self, room: Callable[[str], int], visitors: Sequence[Visitor]
    ) -> tuple[list[int], float, list[tf.Tensor]]:
        """The micro-batches of this process: their sizes, and sums of losses and gradients.

        The gradients are added up on each device.
        """
        parts, replicas, vector = self._parts, self._replicas, self._parts.vector_spec
        sizes: list[tf.Tensor] = []
        losses: list[tf.Tensor] = []
        gradients = [tf.zeros(vector.shape, vector.dtype)] * len(replicas.devices)
        left = [room(device) for device in replicas.devices]
        batch: list[Part] = []
        for replica, arguments in self._arguments():
            values = None
            with replicas.on(replica):
                if parts.linearisable and parts.num_bytes(*arguments) <= left[replica]:
                    (count, loss, gradient), values = parts.first(*arguments)
                    left[replica] -= num_bytes(values) or 0
                else:
                    count, loss, gradient = parts.fixed(*arguments)
                weighted = tf.cast(count, vector.dtype) * gradient
                gradients[replica] = gradients[replica] + weighted
            if values is not None and left[replica] >= 0:
                if not replicas.alone:
                    values = moved(values, replicas.devices[replica])
                self.kept.append(values)
            else:  # values are kept of the first micro-batches alone, on all devices
                left = [-1] * len(left)
            sizes.append(count)
            losses.append(loss)
            if visitors and not replicas.of_workers:
                product = functools.partial(self._of_batch, replica, values, arguments)
                batch.append(Part(replica, count, gradient, product))
                if len(batch) == self._batches.num_pieces:
                    batch_visits.visit(visitors, batch)
        batch_visits.visit(visitors, batch)
        # Only now does the host wait for the devices.
        counts = tf.stack(sizes).numpy().tolist() if sizes else []
        values_of_losses = tf.stack(losses).numpy().tolist() if losses else []
        return counts, sum(map(operator.mul, counts, values_of_losses)), gradients

    def operator(self, scale: tf.Tensor) -> Matvec:
        """``S H S`` with a diagonal S, for a solver; its products are not counted here.

        Args:
            scale: Diagonal of S, shape (n,).

        Returns:
            An `Operator` if the values of all micro-batches are kept, otherwise a function.
        """
        if not self._all_kept:
            return lambda vector: scale * self._product(scale * vector)
        number = len(self._replicas.devices)
        shares = [(self._weights[r::number], self.kept[r::number]) for r in range(number)]
        return programs.operator(self._program, self._parts, self._replicas, scale, shares)

    def hessian_product(self, vector: tf.Tensor) -> tf.Tensor:
        """``H v`` for a vector of shape (n,)."""
        self.num_products += 1
        return self._product(vector)

    def products_of_batches(self, vector: tf.Tensor) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Share ``w_b`` of each batch in the examples, and its ``H_b v``; ``Σ_b w_b H_b = H``.

        Batches are as they were before they were cut for replicas. Several workers have none.

        Args:
            vector: v, shape (n,).
        """
        if self._replicas.of_workers:
            return
        self.num_products += 1
        products = self._products(self._replicas.copies(vector))
        batch: list[tuple[tf.Tensor, tf.Tensor]] = []
        for number, (weight, (_, product)) in enumerate(
            zip(self._weights, products, strict=True), 1
        ):
            batch.append((weight, weight * product))
            if len(batch) == self._batches.num_pieces or number == len(self._weights):
                share, total = (tf.add_n(list(part)) for part in zip(*batch, strict=True))
                yield share, total / share
                batch.clear()

    def _products(self, copies: Sequence[tf.Tensor]) -> Iterator[tuple[int, tf.Tensor]]:
        """Each micro-batch's device and its product with a vector, of which each has a copy."""
        for position, values in enumerate(self.kept):
            replica = position % len(copies)
            yield replica, self._of_batch(replica, values, [], copies[replica])
        if len(self.kept) < len(self._weights):
            for replica, arguments in self._arguments(len(self.kept)):
                yield replica, self._of_batch(replica, None, arguments, copies[replica])

    def _product(self, vector: tf.Tensor) -> tf.Tensor:
        copies = self._replicas.copies(vector)
        totals = [tf.zeros_like(copy) for copy in copies]
        for weight, (replica, product) in zip(self._weights, self._products(copies), strict=True):
            with self._replicas.on(replica):
                totals[replica] = totals[replica] + weight * product
        return self._replicas.sum(totals)

    def _parts_here(self) -> Iterator[Part]:
        """The micro-batches of this process, their gradients computed once more."""
        for position, (replica, arguments) in enumerate(self._arguments()):
            values = self.kept[position] if position < len(self.kept) else None
            with self._replicas.on(replica):
                count, _, gradient = self._parts.fixed(*arguments)
            product = functools.partial(self._of_batch, replica, values, arguments)
            yield Part(replica, count, gradient, product)

    def _of_batch(
        self,
        replica: int,
        values: list[tf.Tensor] | None,
        arguments: list[tf.Tensor],
        vector: tf.Tensor,
    ) -> tf.Tensor:
        """The product of one micro-batch, from its values if there are any."""
        with self._replicas.on(replica):
            if values is None:
                return self._parts.whole(vector, *arguments)
            return self._parts.second(vector, values)

    def _arguments(self, begin: int = 0) -> Iterator[tuple[int, list[tf.Tensor]]]:
        """What the parts take after the vector, and on which device, from a micro-batch on."""
        for number, leaves in self._batches.on(self._replicas.places, begin):
            replica = self._replicas.index(number)
            with self._replicas.on(replica):
                index = tf.constant(number, tf.int64)
            yield replica, [*self._parameters[replica], index, *leaves]
