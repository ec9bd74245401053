"""What a run is fed: every element is a micro-batch, ready for `fit`."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from trainers import schema
from trainers.data import imagenet, images
from trainers.data import sentences as translation
from trainers.data import source as sources
from trainers.micro_batches import micro_batch_size

# Called with the configuration, each returns a `Source`.
_SOURCES: dict[str, Callable] = {"imagenet2012": imagenet.source}


@dataclass(frozen=True)
class Feed:
    """The data sets of one run, of micro-batches ``(inputs, targets)``.

    Attributes:
        training: Endless; so many micro-batches in a row are one update.
        num_micro_batches: Micro-batches of an update.
        updates_per_epoch: Updates that see as many examples as there are, 1 or more.
        measured: Finite, the same each time; micro-batches of the size of training where its
            number of examples allows it.
        test: The test split, finite; None if the run doesn't evaluate.
        sentences: Where the data sets come from, if they are sentences: their micro-batches have
            weights, too.
    """

    training: tf.data.Dataset
    num_micro_batches: int
    updates_per_epoch: int
    measured: tf.data.Dataset
    test: tf.data.Dataset | None
    sentences: translation.Sentences | None = None


def load(config: schema.Config) -> Feed:
    """Load the data sets that a configuration asks for.

    In a full-batch run the examples are cut into micro-batches once, in the order of the data set.
    In minibatches they are shuffled anew for each epoch, from `config.seed`; what is left at the
    end of an epoch and fills no batch is dropped.

    Raises:
        UserError: The data set, or a split of it, is not on this machine.
    """
    section = config.data
    if isinstance(section, schema.Translation):
        sentences = translation.Sentences(config)
        feed = _feed(config, sentences, sentences.num_examples)
        return dataclasses.replace(feed, sentences=sentences)
    source = _SOURCES.get(section.name, images.source)(config)
    return _feed(config, source, schema.num_examples(section))


def _feed(config: schema.Config, source: sources.Source, num_examples: int) -> Feed:
    section = config.data
    batch = section.batch_size or num_examples
    size = micro_batch_size(batch, section.micro_batch_size)
    num_measured = config.monitor.num_examples or num_examples
    measured_size = micro_batch_size(num_measured, size)
    measured = source.ordered(num_measured, measured_size)
    if section.batch_size is not None:
        training = source.shuffled(batch, size)
    elif (num_measured, measured_size) == (num_examples, size):
        training = measured.repeat()
    else:
        training = source.ordered(num_examples, size).repeat()
    evaluated = config.evaluation.freq is not None or config.evaluation.loss_threshold is not None
    return Feed(
        training=training,
        num_micro_batches=batch // size,
        updates_per_epoch=num_examples // batch,
        measured=measured,
        test=source.test(section.micro_batch_size) if evaluated else None,
    )
