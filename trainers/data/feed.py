"""What a run is fed: data sets whose every element is a micro-batch, ready for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from trainers import schema
from trainers.data.share import ALL, Share
from trainers.data.source import Source
from trainers.errors import UserError
from trainers.micro_batches import micro_batch_size


@dataclass(frozen=True)
class Feed:
    """The data sets of one run, of micro-batches ``(inputs, targets)`` or with weights as well.

    Attributes:
        training: Function of a `Share`, of all by default: the endless data set of its pieces of
            micro-batches. `num_micro_batches` consecutive micro-batches are one update.
        full_batch: The micro-batches of a full batch, tensors (micro-batches, size, ...) of the
            host; None if they are not all in memory, or random ones are trained on.
        batch_size: Examples of an update.
        num_micro_batches: Micro-batches of an update.
        updates_per_epoch: Updates that see as many examples as there are, 1 or more.
        measured: Finite, the same each time; micro-batches of the size of training where its
            number of examples allows it.
        test: The test split, finite; None if the run doesn't evaluate.
    """

    training: Callable[..., tf.data.Dataset]
    full_batch: Sequence[tf.Tensor] | None
    batch_size: int
    num_micro_batches: int
    updates_per_epoch: int
    measured: tf.data.Dataset
    test: tf.data.Dataset | None


def load(config: schema.Config, source: Source, num_replicas: int = 1) -> Feed:
    """Load the data sets that a configuration asks for.

    In a full-batch run the examples are cut into micro-batches once, in the order of the data set.
    In minibatches they are shuffled again for each epoch, from `config.seed`; the rest of an epoch
    that fills no batch is dropped.

    A replica trains on at most `data.micro_batch_size` examples at once, so that a micro-batch has
    as many for each of the replicas.

    Raises:
        UserError: A split of the data set is not on this machine, or a batch can't be divided among
            the replicas.
    """
    section = config.data
    batch = section.batch_size or source.num_examples
    size = _size(section, batch, num_replicas)
    num_measured = config.monitor.num_examples or source.num_examples
    if num_measured % num_replicas:
        measured_size = micro_batch_size(num_measured, size)
    else:
        of_replica = micro_batch_size(num_measured // num_replicas, size // num_replicas)
        measured_size = num_replicas * of_replica
    measured = source.ordered(num_measured, measured_size)

    def training(share: Share = ALL) -> tf.data.Dataset:
        if section.batch_size is not None:
            return source.shuffled(batch, size, share)
        same = (num_measured, measured_size) == (source.num_examples, size)
        batches = measured if same else source.ordered(source.num_examples, size)
        return share.of_micro_batches(batches, size).repeat().prefetch(share.num_replicas)

    evaluated = config.evaluation.freq is not None or config.evaluation.loss_threshold is not None
    return Feed(
        training=training,
        full_batch=source.full_batch(size) if section.batch_size is None else None,
        batch_size=batch,
        num_micro_batches=batch // size,
        updates_per_epoch=source.num_examples // batch,
        measured=measured,
        test=source.test(section.micro_batch_size) if evaluated else None,
    )


def _size(section: schema.Data, batch: int, num_replicas: int) -> int:
    """Number of examples of a micro-batch, equally many for each replica."""
    if batch % num_replicas:
        key = "data.num_examples" if section.batch_size is None else "data.batch_size"
        raise UserError(
            f"{key}: expected a multiple of the number of replicas, {num_replicas}, which share "
            f"each batch. Received: {key}={batch}"
        )
    try:
        return num_replicas * micro_batch_size(batch // num_replicas, section.micro_batch_size)
    except ValueError as error:
        raise UserError(f"data: for each of {num_replicas} replicas, {error}") from error
