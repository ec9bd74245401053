"""Data sets that are missing, and broken files of those that are there."""

import pytest
import tensorflow as tf

from tests.trainers.prepared import SHAPES, jpeg, write_cifar, write_imagenet
from trainers import schema, training
from trainers.data import images, tfds
from trainers.errors import UserError
from trainers.tasks.base import task_of


def train_on(directory):
    """A run on the small CIFAR-10 in a directory."""
    section = schema.Data(data_dir=str(directory), num_examples=120)
    settings = schema.Config(
        model=schema.FullyConnected(),
        data=section,
        optimizer=schema.OPTIMIZERS["adam"](),
        output_dir="",
    )
    training.train(settings, directory / "run", {})


@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_missing_data_set_names_place_and_remedy(tmp_path, monkeypatch, by):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = schema.Data(data_dir=str(tmp_path) if by == "configuration" else None)
    with pytest.raises(UserError) as error:
        images.load(config)
    for part in ("cifar10", str(tmp_path), "tools/prepare_data.py cifar10", "data.data_dir"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


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


def test_missing_split_is_named(tmp_path):
    only = write_imagenet(tmp_path, splits=("train",))
    settings = config(only, evaluation=schema.Evaluation(freq=5))
    with pytest.raises(UserError, match=r"a split 'validation' .* splits train \(9 examples\)"):
        task_of(settings).feed()


def test_too_few_examples_are_named(directory):
    with pytest.raises(UserError, match="a split 'train' of 10 or more examples"):
        task_of(config(directory, num_examples=10)).feed()


def test_broken_photograph_is_named(tmp_path):
    good = [jpeg(*shape) for shape in SHAPES[:3]]
    settings = config(write_imagenet(tmp_path, [good[0], good[1][:3000], good[2]]), 3)
    with pytest.raises(UserError) as error, tfds.broken_image_named(settings.data):
        arrays(task_of(settings).feed().measured)
    for part in ("imagenet2012", "n00000001.JPEG", str(tmp_path)):
        assert part in str(error.value)


def test_error_without_a_broken_image_is_not_explained(directory):
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="a jpeg"),
        tfds.broken_image_named(schema.Data()),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "about a jpeg, but none is broken")
