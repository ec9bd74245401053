"""Data sets that are missing, and broken files of those that are there."""

import pytest
import tensorflow as tf

from tests.trainers.prepared import SHAPES, jpeg, write_cifar, write_imagenet
from trainers import schema, training
from trainers.data import images, tfds
from trainers.errors import UserError
from trainers.tasks.base import task_of


def run(name, directory, num_examples, **changes):
    return schema.Config(
        model=schema.FullyConnected(),
        optimizer=schema.OPTIMIZERS["adam"](),
        data=schema.Data(name=name, data_dir=str(directory), num_examples=num_examples),
        output_dir="",
        **changes,
    )


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
        training.train(run("cifar10", tmp_path, 120), tmp_path / "run", {})


def test_damaged_file_is_named(tmp_path):
    write_cifar(tmp_path)
    [file] = tmp_path.glob("cifar10/*/*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a file of cifar10 in .*3\.0\.2 is damaged"):
        training.train(run("cifar10", tmp_path, 120), tmp_path / "run", {})


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00"])
def test_damaged_description_is_named(tmp_path, content):
    write_cifar(tmp_path)
    [file] = tmp_path.glob("cifar10/*/dataset_info.json")
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"description of .* cifar10 in .*cifar10 can't") as caught:
        images.load(run("cifar10", tmp_path, 120).data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_missing_file_is_named(tmp_path, how):
    write_cifar(tmp_path)
    [file] = tmp_path.glob("cifar10/*/*train.tfrecord*")
    file.unlink()
    if how == "empty":
        file.touch()
    with pytest.raises(UserError, match=r"a file of cifar10 in .*3\.0\.2 is .*missing") as caught:
        training.train(run("cifar10", tmp_path, 120), tmp_path / "run", {})
    assert "\n" not in str(caught.value)


def test_missing_split_is_named(tmp_path):
    only = write_imagenet(tmp_path, splits=("train",))
    settings = run("imagenet2012", only, 9, evaluation=schema.Evaluation(freq=5))
    with pytest.raises(UserError, match=r"a split 'validation' .* splits train \(9 examples\)"):
        task_of(settings).feed()


def test_too_few_examples_are_named(tmp_path):
    settings = run("imagenet2012", write_imagenet(tmp_path), 10)
    with pytest.raises(UserError, match="a split 'train' of 10 or more examples"):
        task_of(settings).feed()


def test_broken_photograph_is_named(tmp_path):
    good = [jpeg(*shape) for shape in SHAPES[:3]]
    write_imagenet(tmp_path, [good[0], good[1][:3000], good[2]])
    task = task_of(run("imagenet2012", tmp_path, 3))
    with pytest.raises(UserError) as error, task.broken_example_named():
        list(task.feed().measured)
    for part in ("imagenet2012", "n00000001.JPEG", str(tmp_path)):
        assert part in str(error.value)


def test_error_without_a_broken_image_is_not_explained(tmp_path):
    section = schema.Data(data_dir=write_cifar(tmp_path))
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="a jpeg"),
        tfds.broken_image_named(section),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "about a jpeg, but none is broken")
