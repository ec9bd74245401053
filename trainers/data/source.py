"""What every source of examples offers."""

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from trainers.data.share import Share


class Source(Protocol):
    """Where the examples of a run come from, as data sets of micro-batches.

    Attributes:
        num_examples: Number of training examples.
    """

    num_examples: int

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """The first `num_examples` in micro-batches of `size`, in the same order each time."""

    def full_batch(self, size: int) -> Sequence[tf.Tensor] | None:
        """All examples in micro-batches of `size`, on the host; None if they aren't in memory."""

    def shuffled(self, batch: int, size: int, share: Share) -> tf.data.Dataset:
        """Endless random batches of `batch` examples, each in micro-batches of `size`.

        The elements are the pieces of the micro-batches that a worker gets.
        """

    def test(self, size: int) -> tf.data.Dataset:
        """The test split in micro-batches of `size`, the last one possibly smaller."""
