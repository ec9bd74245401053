"""The parts of the batches that the replicas of several workers get, from any update on."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.sentences import config as of_sentences
from trainers import schema
from trainers.data.share import Share
from trainers.errors import UserError
from trainers.tasks.base import task_of


def of_digits(batch_size):
    return schema.Config(
        model=schema.FullyConnected(),
        data=schema.Data(name="digits", num_examples=24, batch_size=batch_size, micro_batch_size=3),
        optimizer=schema.OPTIMIZERS["adam"](),
        output_dir="",
    )


def taken(feed, share, count):
    """The leaves of the first micro-batches."""
    return [
        [leaf.numpy() for leaf in tf.nest.flatten(piece)]
        for piece in feed.training(share).take(count)
    ]


@pytest.mark.parametrize("batch_size", [None, 12])
def test_pieces_of_all_workers_are_the_batches(batch_size):
    """Two workers with two replicas each, against the same batches on one device."""
    feed = task_of(of_digits(batch_size)).feed(4)
    num_batches = feed.num_micro_batches
    whole = taken(feed, Share(), num_batches)
    of_worker = [taken(feed, Share(4, 2, worker), 2 * num_batches) for worker in (0, 1)]
    for number, leaves in enumerate(whole):
        pieces = [batches[2 * number + i] for batches in of_worker for i in (0, 1)]
        for index, leaf in enumerate(leaves):
            assert {len(piece[index]) for piece in pieces} == {3}
            np.testing.assert_array_equal(np.concatenate([p[index] for p in pieces]), leaf)


def test_batches_of_replicas_are_those_of_one_device():
    one, four = (task_of(of_digits(12)).feed(number) for number in (1, 4))
    assert (one.num_micro_batches, four.num_micro_batches) == (4, 1)
    cut, whole = taken(one, Share(), 8), taken(four, Share(), 2)
    for index in (0, 1):
        joined = np.concatenate([batch[index] for batch in cut])
        np.testing.assert_array_equal(joined, np.concatenate([b[index] for b in whole]))


@pytest.mark.parametrize("kind", ["digits", "sentences"])
def test_batches_go_on_from_any_update(kind, files):
    """Also into the third epoch, which is shuffled in another way than the first."""
    data = {"batch_size": 4, "micro_batch_size": 2}
    settings = of_digits(12) if kind == "digits" else of_sentences(files, data=data)
    feed = task_of(settings).feed()
    number = feed.num_micro_batches
    whole = taken(feed, Share(), 8 * number)
    for update in (0, 1, 5):
        rest = taken(feed, Share(initial_update=update), 2 * number)
        for ours, theirs in zip(rest, whole[update * number :], strict=False):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)


def test_examples_of_a_worker():
    numbers = tf.data.Dataset.range(12).enumerate()
    kept = [
        [int(example) for _, example in Share(4, 2, worker).of_examples(numbers, 8)]
        for worker in (0, 1)
    ]
    assert kept == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7]]


def test_tokens_of_replicas_weigh_as_much_as_those_of_one_device(files):
    """A replica's loss is a sum, and Keras adds these sums: weights are K/T with K micro-batches.

    Of all replicas together, a micro-batch has twice as many sentences, and there are half as many.
    """
    settings = of_sentences(files, data={"batch_size": 4, "micro_batch_size": 2})
    sums = []
    for number in (1, 2):
        feed = task_of(settings).feed(number)
        batches = taken(feed, Share(number), 2)
        sums.append(sum(leaves[-1].sum() for leaves in batches) / feed.num_micro_batches)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)


def test_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"data\.batch_size: expected a multiple .* 5, "):
        task_of(of_digits(12)).feed(5)
