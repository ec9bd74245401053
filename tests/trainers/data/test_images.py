"""Small images in memory."""

import numpy as np
import pytest

from tests.trainers.prepared import write_cifar
from trainers import schema
from trainers.data import images
from trainers.tasks.base import task_of


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


@pytest.mark.parametrize("num_classes", [10, 100])
def test_test_split_is_standardised_like_the_training_examples(tmp_path, num_classes):
    section = schema.Data(
        name=f"cifar{num_classes}",
        data_dir=write_cifar(tmp_path, num_classes),
        micro_batch_size=16,
        num_examples=120,
    )
    config = schema.Config(data=section, evaluation=schema.Evaluation(freq=1))
    feed = task_of(config).feed()
    examples, standardise = images.load(section)
    x, y = (np.concatenate(parts) for parts in zip(*(feed.test or []), strict=True))
    assert x.shape == (40, 32, 32, 3)
    assert list(y) == [label % num_classes for label in y]
    # The noise of both splits has the same mean and variance, over 40,000 pixels a channel.
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=0.02)
    assert not np.array_equal(x.mean((0, 1, 2)), examples.inputs[:40].mean((0, 1, 2)))
    assert standardise(np.zeros((1, 1, 1, 3), np.float32)).max() < 0
