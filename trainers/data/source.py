"""What every source of examples offers."""

from typing import Protocol

import tensorflow as tf

from trainers.data.resident import ResidentBatch


class Source(Protocol):
    """Where the examples of a run come from, as data sets of micro-batches.

    Attributes:
        num_examples: Number of training examples.
    """

    num_examples: int

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """The first `num_examples` in micro-batches of `size`, in the same order each time."""

    def full_batch(self, size: int) -> ResidentBatch | None:
        """All examples in micro-batches of `size`, on the device; None if they can't be there."""

    def shuffled(self, batch: int, size: int) -> tf.data.Dataset:
        """Endless random batches of `batch` examples, each in micro-batches of `size`."""

    def test(self, size: int) -> tf.data.Dataset:
        """The test split in micro-batches of `size`, the last one possibly smaller."""
