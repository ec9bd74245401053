"""What one worker of several trains on."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Share:
    """A worker's part of each micro-batch, from an update on.

    A micro-batch is cut into equal pieces, one for each replica, in the order of the workers and of
    their replicas.

    Attributes:
        num_replicas: Number of replicas of all workers.
        num_workers: Number of workers, with equally many replicas each.
        worker: Number of this worker, from 0.
        initial_update: Number of updates done before; their batches are left out.
    """

    num_replicas: int = 1
    num_workers: int = 1
    worker: int = 0
    initial_update: int = 0

    def pieces(self, examples: tf.Tensor, size: int) -> tf.Tensor:
        """The worker's pieces of some micro-batches of `size`.

        Args:
            examples: Tensor (micro-batches · size, ...).
            size: Number of examples of a micro-batch.

        Returns:
            Tensor (micro-batches · replicas of a worker, size / replicas, ...).
        """
        of_replica = size // self.num_replicas
        cut = (-1, self.num_workers, self.num_replicas // self.num_workers, of_replica)
        example = tf.shape(examples)[1:]
        pieces = tf.reshape(examples, tf.concat([cut, example], 0))[:, self.worker]
        pieces = tf.reshape(pieces, tf.concat([(-1, of_replica), example], 0))
        num_examples = examples.shape[0]
        number = None if num_examples is None else num_examples // of_replica // self.num_workers
        pieces.set_shape([number, of_replica, *examples.shape[1:]])
        return pieces

    def of_micro_batches(self, batches: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """The worker's pieces of a data set of micro-batches of `size`."""
        if self.num_replicas == 1:
            return batches

        def cut(*batch: Any) -> Any:
            return tf.nest.map_structure(lambda part: self.pieces(part, size), batch)

        return batches.map(cut, tf.data.AUTOTUNE).unbatch()

    def of_examples(self, numbered: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """The worker's examples of a data set ``(number, example)``, numbered from 0."""
        if self.num_workers == 1:
            return numbered
        of_worker = size // self.num_workers
        return numbered.filter(lambda number, _: number % size // of_worker == self.worker)


ALL = Share()
