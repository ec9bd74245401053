"""What a source of examples offers, and what all those by TFDS have in common."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainers import schema
from trainers.errors import UserError


class Source(Protocol):
    """Where the examples of a run come from, as data sets of micro-batches."""

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """The first `num_examples` in micro-batches of `size`, in one order, the same each time."""

    def shuffled(self, batch: int, size: int) -> tf.data.Dataset:
        """Endless random batches of `batch` examples, each in micro-batches of `size`."""

    def test(self, size: int) -> tf.data.Dataset:
        """The test split in micro-batches of `size`, the last one smaller."""


def prepared(section: schema.Data) -> Any:
    """The TFDS builder of a data set that is on this machine.

    Raises:
        UserError: It is not.
    """
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    data_dir = section.data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = tfds.builder(section.name, data_dir=data_dir)
    if not builder.is_prepared():
        raise unprepared(section.name, builder.data_path, data_dir)
    return builder


def unprepared(name: str, place: os.PathLike | str, data_dir: str | None) -> UserError:
    """The error at a data set that is not in `place`, where it would be."""
    where = f" --data-dir {data_dir}" if data_dir else ""
    return UserError(
        f"the data set {name} is not prepared: nothing in {place}. Prepare it by 'python "
        f"tools/prepare_data.py {name}{where}', or name the directory that has it by "
        "data.data_dir=DIR or the environment variable TFDS_DATA_DIR"
    )


def check_split(builder: Any, split: str, num_examples: int = 1) -> None:
    """Check that a prepared data set has a split with so many examples.

    Raises:
        UserError: It has not.
    """
    splits = {name: info.num_examples for name, info in builder.info.splits.items()}
    if splits.get(split, 0) < num_examples:
        found = ", ".join(f"{name} ({count} examples)" for name, count in splits.items()) or "none"
        raise UserError(
            f"expected a split '{split}' of {num_examples} or more examples in {builder.data_path}."
            f" Received: the splits {found}"
        )


@contextmanager
def broken_image_named(config: schema.Config) -> Iterator[None]:
    """Turns TensorFlow's error at an image that it can't decode into one that names the image.

    Raises:
        UserError: An image can't be decoded, or a file of the data set is damaged.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        raise UserError(
            f"a file of {config.data.name} in {prepared(config.data).data_path} is damaged "
            f"({error.message}). Prepare the data set again"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        broken = _undecodable(config, error)
        if broken is None:
            raise
        raise broken from error


def _undecodable(config: schema.Config, error: Exception) -> UserError | None:
    """The error that names the first image which TensorFlow can't decode; None if there is none.

    Decodes all images, if an error of TensorFlow is about one, because it doesn't say which.
    """
    import tensorflow_datasets as tfds

    if config.data.name == "digits" or not re.search("jpeg|png", str(error), re.IGNORECASE):
        return None
    builder = prepared(config.data)
    for split in builder.info.splits:
        images = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(add_tfds_id=True),
        )
        shapes = images.map(
            lambda x: tf.shape(tf.io.decode_image(x["image"])), tf.data.AUTOTUNE, deterministic=True
        )
        count = 0
        try:
            for _ in shapes:
                count += 1
        except tf.errors.InvalidArgumentError:
            [image] = images.skip(count).take(1)
            keys = [key for key in ("tfds_id", "file_name", "id") if key in image]
            names = ", ".join(image[key].numpy().decode() for key in keys)
            return UserError(
                f"an image of {config.data.name} can't be decoded: {names} in "
                f"{builder.data_path}. Prepare the data set again"
            )
    return None


def targets(config: schema.Config, labels: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Labels as the loss wants them: one-hot float32 (N, classes) for the squared error."""
    if config.loss == "cross_entropy":
        return labels
    return tf.one_hot(labels, schema.DATASETS[config.data.name].num_classes)
