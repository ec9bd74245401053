import numpy as np
import pytest

from trainers import images, schema
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
