"""What a run is fed: data sets whose every element is a micro-batch, ready for `fit`."""

from dataclasses import dataclass

import tensorflow as tf

from trainers import schema
from trainers.data.resident import ResidentBatch
from trainers.data.source import Source
from trainers.micro_batches import micro_batch_size


@dataclass(frozen=True)
class Feed:
    """The data sets of one run, of micro-batches ``(inputs, targets)`` or with weights as well.

    Attributes:
        training: Endless; `num_micro_batches` consecutive elements are one update.
        resident: The same micro-batches on the device; None if they are fetched for each update.
        num_micro_batches: Micro-batches of an update.
        updates_per_epoch: Updates that see as many examples as there are, 1 or more.
        measured: Finite, the same each time; micro-batches of the size of training where its
            number of examples allows it.
        test: The test split, finite; None if the run doesn't evaluate.
    """

    training: tf.data.Dataset
    resident: ResidentBatch | None
    num_micro_batches: int
    updates_per_epoch: int
    measured: tf.data.Dataset
    test: tf.data.Dataset | None


def load(config: schema.Config, source: Source) -> Feed:
    """Load the data sets that a configuration asks for.

    In a full-batch run the examples are cut into micro-batches once, in the order of the data set.
    In minibatches they are shuffled again for each epoch, from `config.seed`; the rest of an epoch
    that fills no batch is dropped.

    Raises:
        UserError: A split of the data set is not on this machine.
    """
    section = config.data
    batch = section.batch_size or source.num_examples
    size = micro_batch_size(batch, section.micro_batch_size)
    num_measured = config.monitor.num_examples or source.num_examples
    measured_size = micro_batch_size(num_measured, size)
    measured = source.ordered(num_measured, measured_size)
    if section.batch_size is not None:
        training = source.shuffled(batch, size)
    elif (num_measured, measured_size) == (source.num_examples, size):
        training = measured.repeat()
    else:
        training = source.ordered(source.num_examples, size).repeat()
    full_batch = section.batch_size is None
    evaluated = config.evaluation.freq is not None or config.evaluation.loss_threshold is not None
    return Feed(
        training=training.prefetch(1) if full_batch else training,
        resident=source.full_batch(size) if full_batch else None,
        num_micro_batches=batch // size,
        updates_per_epoch=source.num_examples // batch,
        measured=measured,
        test=source.test(section.micro_batch_size) if evaluated else None,
    )
