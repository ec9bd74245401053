"""The feeds of full batches and minibatches, of small images."""

import pytest

from trainers import schema
from trainers.tasks.base import task_of


def run(section, **changes):
    return schema.Config(
        **{
            "model": schema.FullyConnected(),
            "data": section,
            "optimizer": schema.OPTIMIZERS["adam"](),
            "output_dir": "",
            **changes,
        }
    )


def digits(batch_size, micro_batch_size=5, num_examples=23, **changes):
    section = schema.Data(
        name="digits",
        num_examples=num_examples,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
    )
    return task_of(run(section, **changes)).feed()


def micro_batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def rows(batches):
    return [tuple(image.ravel()) for x, _ in batches for image in x]


def test_minibatches_are_new_in_each_epoch_and_without_repetition_in_one():
    feed = digits(batch_size=10, monitor=schema.Monitor(num_examples=20))
    assert feed.num_micro_batches == 2
    assert feed.updates_per_epoch == 2
    batches = micro_batches(feed.training(), 8)
    assert {x.shape for x, _ in batches} == {(5, 8, 8, 1)}
    first, second = rows(batches[:4]), rows(batches[4:])
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    known = rows(micro_batches(digits(batch_size=None, micro_batch_size=23).training(), 1))
    assert set(first) | set(second) <= set(known)


def test_images_keep_their_labels():
    labels = {}
    for x, y in micro_batches(digits(batch_size=None, micro_batch_size=23).training(), 1):
        labels.update({tuple(image.ravel()): label for image, label in zip(x, y, strict=True)})
    feed = digits(batch_size=10, monitor=schema.Monitor(num_examples=20))
    for x, y in micro_batches(feed.training(), 8):
        assert [labels[tuple(image.ravel())] for image in x] == list(y)


def test_minibatches_follow_from_the_seed():
    monitor = schema.Monitor(num_examples=20)
    one, same, other = (
        rows(micro_batches(digits(batch_size=10, seed=seed, monitor=monitor).training(), 4))
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_full_batches_are_all_examples_in_order():
    feed = digits(batch_size=None, micro_batch_size=5, num_examples=20)
    assert feed.num_micro_batches == 4
    assert feed.updates_per_epoch == 1
    twice = rows(micro_batches(feed.training(), 8))
    assert twice[:20] == twice[20:]
    assert rows(micro_batches(feed.measured, -1)) == twice[:20]


@pytest.mark.parametrize("batch_size", [None, 10])
def test_micro_batch_is_the_same_in_training_and_measuring(batch_size):
    monitor = schema.Monitor(num_examples=15)
    feed = digits(batch_size, num_examples=20, monitor=monitor)
    shapes = [
        {x.shape[0] for x, _ in micro_batches(part, count)}
        for part, count in ((feed.training(), 8), (feed.measured, -1))
    ]
    assert shapes == [{5}, {5}]
    measured = rows(micro_batches(feed.measured, -1))
    assert measured == rows(micro_batches(digits(None, num_examples=20).measured, 3))
