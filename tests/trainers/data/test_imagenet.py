"""The ImageNet pipeline on JPEG files of many shapes."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets

from tests.trainers.prepared import LABELS, SHAPES, jpeg, write_imagenet
from trainers import schema
from trainers.data import imagenet, tfds
from trainers.tasks.base import task_of

SIDE = 224


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def photographs(tmp_path):
    """1,000 real photographs under the name of ImageNet, where the environment has them."""
    sample = os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "imagenet_sample", "1.0.0")
    if not os.path.isdir(sample):
        pytest.skip("needs imagenet_sample in TFDS_DATA_DIR")
    target = tmp_path / "imagenet2012" / "5.1.0"
    target.mkdir(parents=True)
    for name in os.listdir(sample):
        copied = target / name.replace("imagenet_sample", "imagenet2012")
        shutil.copy(os.path.join(sample, name), copied)
    info = target / "dataset_info.json"
    text = info.read_text().replace("imagenet_sample", "imagenet2012")
    info.write_text(text.replace('"1.0.0"', '"5.1.0"'))
    return str(tmp_path)


def config(directory, num_examples=9, batch_size=None, seed=0, **changes):
    return schema.Config(
        model=schema.ResNet50(),
        optimizer=schema.OPTIMIZERS["adam"](),
        data=schema.Data(
            name="imagenet2012",
            data_dir=directory,
            num_examples=num_examples,
            batch_size=batch_size,
            micro_batch_size=3,
        ),
        seed=seed,
        output_dir="",
        **changes,
    )


def arrays(dataset, count=None):
    batches = list(dataset.take(-1 if count is None else count))
    return tuple(np.concatenate([batch[i] for batch in batches]) for i in (0, 1))


def test_ordered_images_are_the_same_each_time(directory):
    feed = task_of(config(directory)).feed()
    assert feed.num_micro_batches == 3
    x, y = arrays(feed.measured)
    assert x.shape == (9, SIDE, SIDE, 3)
    assert x.dtype == np.float32
    assert sorted(y) == sorted(LABELS)
    np.testing.assert_array_equal(arrays(feed.measured)[0], x)
    # Full batches see the centres, too: nothing random is in them.
    np.testing.assert_array_equal(arrays(feed.training(), 3)[0], x)
    np.testing.assert_array_equal(
        arrays(task_of(config(directory, seed=1)).feed().training(), 3)[0], x
    )


def test_random_crops_follow_from_the_seed_and_differ_between_epochs(directory):
    def epochs(seed):
        feed = task_of(config(directory, batch_size=9, seed=seed)).feed()
        x, y = arrays(feed.training(), 6)
        return x[:9], x[9:], y[:9], y[9:]

    first, second, labels, later_labels = epochs(0)
    assert sorted(labels) == sorted(later_labels) == sorted(LABELS)
    assert first.shape == (9, SIDE, SIDE, 3)
    again = epochs(0)
    np.testing.assert_array_equal(again[0], first)
    np.testing.assert_array_equal(again[1], second)
    same = dict(zip(labels, first, strict=True))
    for label, image in zip(later_labels, second, strict=True):
        if label != LABELS[SHAPES.index((1, 1, "RGB"))]:
            assert not np.array_equal(image, same[label])
    assert not np.array_equal(epochs(1)[0], first)


def test_examples_that_fill_no_batch_are_left_out_of_an_epoch(directory):
    feed = task_of(config(directory, batch_size=6)).feed()
    assert feed.updates_per_epoch == 1
    assert feed.num_micro_batches == 2
    _, labels = arrays(feed.training(), 4)
    assert len(set(labels[:6])) == len(set(labels[6:])) == 6


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_cropped_to_a_square(shape):
    encoded = tf.constant(jpeg(*shape))
    centre = imagenet.centre_crop(encoded, SIDE)
    crop = imagenet.random_crop(encoded, tf.constant([0, 1], tf.int64), SIDE)
    for image in (centre, crop):
        assert image.shape == (SIDE, SIDE, 3)
        # Interpolation stays between the darkest and the brightest value.
        pixels = image * imagenet.DEVIATION + imagenet.MEAN
        assert float(tf.reduce_min(pixels)) > -1
        assert float(tf.reduce_max(pixels)) < 256


@pytest.mark.parametrize("value", [0, 128, 255])
def test_channels_are_standardised(value):
    image = imagenet.centre_crop(tf.constant(jpeg(64, 96, value=value)), SIDE)
    expected = (value - np.array(imagenet.MEAN)) / np.array(imagenet.DEVIATION)
    # JPEG keeps a constant to one grey level.
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1 / 57)


def test_centre_is_seven_eighths_of_the_shorter_side():
    """A picture whose middle 56 × 56 of 64 × 96 are white, in whole blocks of 8 pixels."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[4:60, 20:76] = 255
    encoded = tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False)
    image = imagenet.centre_crop(encoded, 56) * imagenet.DEVIATION + imagenet.MEAN
    assert float(tf.reduce_min(image)) > 200


def test_random_crops_keep_area_and_aspect():
    """The crop of a ramp tells where it was: at its ends are its first and its last pixel."""
    ramp = np.broadcast_to(np.linspace(0, 255, 256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    both = np.array(ramp)
    both[..., 1] = both[..., 0].T
    encoded = tf.io.encode_jpeg(both, quality=100, chroma_downsampling=False)
    flipped, areas = 0, []
    for index in range(200):
        image = imagenet.random_crop(encoded, tf.constant([3, index], tf.int64), 32)
        image = (image * imagenet.DEVIATION + imagenet.MEAN).numpy()
        height = image[-1, :, 0].mean() - image[0, :, 0].mean()
        width = image[:, -1, 1].mean() - image[:, 0, 1].mean()
        flipped += width < 0
        areas.append(abs(width) * height / 255**2)
        assert 0.6 < abs(width) / height < 1.7  # 3/4 to 4/3, and the rounding of a small crop
    # Five standard errors of 200 throws of a coin.
    assert abs(flipped - 100) < 36
    assert 0.04 < min(areas) < 0.2
    assert 0.6 < max(areas) <= 1.05


def test_evaluation_sees_the_validation_split(directory):
    feed = task_of(config(directory, evaluation=schema.Evaluation(freq=5))).feed()
    x, y = arrays(feed.test)
    assert x.shape == (9, SIDE, SIDE, 3)
    assert sorted(y) == sorted(LABELS)
    assert task_of(config(directory)).feed().test is None


def test_data_made_up_by_tfds_is_read(monkeypatch):
    """TFDS' own stand-in for ImageNet, after its description; nothing is on the disk."""
    monkeypatch.setattr(tfds, "prepared", lambda section: tensorflow_datasets.builder(section.name))
    monkeypatch.setattr(tfds, "check_split", lambda builder, split, num_examples: None)
    with tensorflow_datasets.testing.mock_data(num_examples=6):
        x, y = arrays(task_of(config(None, num_examples=6)).feed().measured)
    assert x.shape == (6, SIDE, SIDE, 3)
    assert x.dtype == np.float32
    assert set(y) <= set(range(1000))


def test_photographs(photographs):
    settings = config(photographs, num_examples=999, batch_size=99)
    x, y = arrays(task_of(settings).feed().training(), 33)
    assert x.shape == (99, SIDE, SIDE, 3)
    assert len(set(y)) == 99
    # Standardised by the mean of all of ImageNet: near 0 and 1 on a hundred photographs.
    assert abs(x.mean()) < 0.3
    assert 0.7 < x.std() < 1.3
    centres, labels = arrays(task_of(settings).feed().measured, 10)
    assert np.isfinite(centres).all()
    assert len(set(labels)) == len(labels)
