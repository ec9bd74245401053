"""Small images in memory, and the feeds of full batches and minibatches."""

import numpy as np
import pytest

from tests.trainers.prepared import write_cifar
from trainers import schema, training
from trainers.data import feed as data
from trainers.data import images
from trainers.errors import UserError


def test_digits_are_standardised_and_whole():
    examples, _ = images.load(schema.Data(name="digits"))
    assert examples.inputs.shape == (1_797, 8, 8, 1)
    assert examples.inputs.dtype == np.float32
    # Means of 115,008 float32 numbers of size 1.
    np.testing.assert_allclose(examples.inputs.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(examples.inputs.std(), 1, rtol=1e-5)
    assert set(examples.labels) == set(range(10))


def test_subset_is_the_first_examples():
    whole = images.load(schema.Data(name="digits"))[0].labels
    part, _ = images.load(schema.Data(name="digits", num_examples=100))
    np.testing.assert_array_equal(part.labels, whole[:100])
    np.testing.assert_allclose(part.inputs.mean(), 0, atol=1e-5)


def test_each_channel_is_standardised_by_itself():
    pixels = np.random.default_rng(0).normal([1, 10, -5], [1, 5, 0.1], (50, 4, 4, 3))
    pixels = pixels.astype(np.float32)
    standard = images.Standardise(pixels)(pixels)
    np.testing.assert_allclose(standard.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 1, 2)), 1, rtol=1e-4)


def test_constant_channel_becomes_zero():
    pixels = np.ones((4, 2, 2, 1), np.float32)
    assert not images.Standardise(pixels)(pixels).any()


def cifar10(data_dir, num_examples):
    section = schema.Data(name="cifar10", data_dir=data_dir, num_examples=num_examples)
    return images.load(section)[0]


def test_cifar10_is_standardised_per_channel(prepared):
    examples = cifar10(prepared, 100)
    assert examples.inputs.shape == (100, 32, 32, 3)
    assert examples.inputs.dtype == np.float32
    np.testing.assert_allclose(examples.inputs.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(examples.inputs.std((0, 1, 2)), 1, rtol=1e-4)
    assert examples.labels.dtype == np.int32
    assert set(examples.labels) == set(range(10))


def test_cifar10_comes_in_one_order_from_configuration_or_environment(prepared, monkeypatch):
    named = cifar10(prepared, 50)
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    found = cifar10(None, 50)
    np.testing.assert_array_equal(named.labels, found.labels)
    np.testing.assert_array_equal(named.inputs, found.inputs)
    np.testing.assert_array_equal(cifar10(prepared, 100).labels[:50], named.labels)


@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_missing_data_set_names_place_and_remedy(tmp_path, monkeypatch, by):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = schema.Data(data_dir=str(tmp_path) if by == "configuration" else None)
    with pytest.raises(UserError) as error:
        images.load(config)
    for part in ("cifar10", str(tmp_path), "tools/prepare_data.py cifar10", "data.data_dir"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_test_split_is_standardised_like_the_training_examples(tmp_path, num_classes):
    section = schema.Data(
        name=f"cifar{num_classes}",
        data_dir=write_cifar(tmp_path, num_classes),
        micro_batch_size=16,
        num_examples=120,
    )
    feed = data.load(run(section, evaluation=schema.Evaluation(freq=1)))
    examples, standardise = images.load(section)
    x, y = (np.concatenate(parts) for parts in zip(*(feed.test or []), strict=True))
    assert x.shape == (40, 32, 32, 3)
    assert list(y) == [label % num_classes for label in y]
    # The noise of both splits has the same mean and variance, over 40,000 pixels a channel.
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=0.02)
    assert not np.array_equal(x.mean((0, 1, 2)), examples.inputs[:40].mean((0, 1, 2)))
    assert standardise(np.zeros((1, 1, 1, 3), np.float32)).max() < 0


def run(section, **changes):
    return schema.Config(
        **{
            "model": schema.FullyConnected(),
            "data": section,
            "optimizer": schema.Adam(),
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
    return data.load(run(section, **changes))


def micro_batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def rows(batches):
    return [tuple(image.ravel()) for x, _ in batches for image in x]


def test_minibatches_are_new_in_each_epoch_and_without_repetition_in_one():
    feed = digits(batch_size=10, monitor=schema.Monitor(num_examples=20))
    assert feed.num_micro_batches == 2
    assert feed.updates_per_epoch == 2
    batches = micro_batches(feed.training, 8)
    assert {x.shape for x, _ in batches} == {(5, 8, 8, 1)}
    first, second = rows(batches[:4]), rows(batches[4:])
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    known = rows(micro_batches(digits(batch_size=None, micro_batch_size=23).training, 1))
    assert set(first) | set(second) <= set(known)


def test_images_keep_their_labels():
    labels = {}
    for x, y in micro_batches(digits(batch_size=None, micro_batch_size=23).training, 1):
        labels.update({tuple(image.ravel()): label for image, label in zip(x, y, strict=True)})
    feed = digits(batch_size=10, monitor=schema.Monitor(num_examples=20))
    for x, y in micro_batches(feed.training, 8):
        assert [labels[tuple(image.ravel())] for image in x] == list(y)


def test_minibatches_follow_from_the_seed():
    monitor = schema.Monitor(num_examples=20)
    one, same, other = (
        rows(micro_batches(digits(batch_size=10, seed=seed, monitor=monitor).training, 4))
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_full_batches_are_all_examples_in_order():
    feed = digits(batch_size=None, micro_batch_size=5, num_examples=20)
    assert feed.num_micro_batches == 4
    assert feed.updates_per_epoch == 1
    twice = rows(micro_batches(feed.training, 8))
    assert twice[:20] == twice[20:]
    assert rows(micro_batches(feed.measured, -1)) == twice[:20]


@pytest.mark.parametrize("batch_size", [None, 10])
def test_micro_batch_is_the_same_in_training_and_measuring(batch_size):
    monitor = schema.Monitor(num_examples=15)
    feed = digits(batch_size, num_examples=20, monitor=monitor)
    shapes = [
        {x.shape[0] for x, _ in micro_batches(part, count)}
        for part, count in ((feed.training, 8), (feed.measured, -1))
    ]
    assert shapes == [{5}, {5}]
    measured = rows(micro_batches(feed.measured, -1))
    assert measured == rows(micro_batches(digits(None, num_examples=20).measured, 3))


def train_on(directory):
    """A run on the small CIFAR-10 in a directory."""
    section = schema.Data(data_dir=str(directory), num_examples=120)
    settings = schema.Config(
        model=schema.FullyConnected(), data=section, optimizer=schema.Adam(), output_dir=""
    )
    training.train(settings, directory / "run", {})


def test_broken_image_is_named(tmp_path):
    write_cifar(tmp_path, broken=7)
    with pytest.raises(UserError, match=r"of cifar10 can't be decoded: .*train_7.* in .*3\.0\.2"):
        train_on(tmp_path)


def test_damaged_file_is_named(tmp_path):
    write_cifar(tmp_path)
    [file] = tmp_path.glob("cifar10/*/*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a file of cifar10 in .*3\.0\.2 is damaged"):
        train_on(tmp_path)
