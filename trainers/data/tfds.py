"""Data sets prepared by TensorFlow Datasets: found, checked, and their damage named."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainers import schema
from trainers.errors import UserError

# What TensorFlow raises for a file that is damaged, missing or too short.
DAMAGED = (tf.errors.DataLossError, tf.errors.FailedPreconditionError, tf.errors.NotFoundError)


def prepared(section: schema.Data) -> Any:
    """The builder of a data set that is on this machine.

    Raises:
        UserError: The data set is not on this machine.
    """
    import tensorflow_datasets

    _quiet()
    data_dir = _data_dir(section)
    try:
        builder = tensorflow_datasets.builder(section.name, data_dir=data_dir)
    except Exception as error:  # what describes the data set may be damaged in any way
        raise _unreadable(section.name, data_dir, error) from error
    if not builder.is_prepared():
        raise _unprepared(section.name, builder.data_path, data_dir)
    return builder


def prepared_pair(section: schema.Translation) -> Any:
    """The builder of a data set of translations, with the two languages in either order.

    Raises:
        UserError: The data set or the pair of languages is not on this machine.
    """
    import tensorflow_datasets

    _quiet()
    data_dir = _data_dir(section)
    name, _, pair = section.name.partition("/")
    languages = section.source, section.target
    wanted = [pair] if pair else ["-".join(languages), "-".join(reversed(languages))]
    for candidate in wanted:
        try:
            builder = tensorflow_datasets.builder(f"{name}/{candidate}", data_dir=data_dir)
        except (tensorflow_datasets.core.DatasetNotFoundError, ValueError):
            continue  # a data set without this pair
        except Exception as error:
            raise _unreadable(f"{name}/{candidate}", data_dir, error) from error
        if builder.is_prepared():
            return builder
    place = Path(data_dir or tensorflow_datasets.core.constants.DATA_DIR).expanduser() / name
    found = sorted(path.name for path in place.glob("*-*") if path.is_dir())
    if found:
        raise UserError(
            f"{name} in {place.parent} has no pair {' or '.join(wanted)}. "
            f"Received: the language pairs {', '.join(found)}"
        )
    raise _unprepared(f"{name}/{wanted[-1]}", place, data_dir)


def check_split(builder: Any, split: str, num_examples: int = 1) -> None:
    """Check that a prepared data set has a split with this many examples.

    Raises:
        UserError: There is no such split, or it has fewer examples.
    """
    splits = {name: info.num_examples for name, info in builder.info.splits.items()}
    if splits.get(split, 0) < num_examples:
        found = ", ".join(f"{name} ({count} examples)" for name, count in splits.items()) or "none"
        raise UserError(
            f"expected a split '{split}' of {num_examples} or more examples in {builder.data_path}."
            f" Received: the splits {found}"
        )


@contextmanager
def broken_image_named(section: schema.Data) -> Iterator[None]:
    """Replace TensorFlow's error about an image that can't be decoded by one that names the image.

    Raises:
        UserError: An image can't be decoded, or a file of the data set is damaged.
    """
    try:
        yield
    except DAMAGED as error:
        raise damaged_file(section, prepared(section), error) from error
    except tf.errors.InvalidArgumentError as error:
        broken = _undecodable(section, error)
        if broken is None:
            raise
        raise broken from error


def damaged_file(section: schema.Data, builder: Any, error: tf.errors.OpError) -> UserError:
    """The error to raise when TensorFlow finds a file of a prepared data set damaged."""
    return UserError(
        f"a file of {section.name} in {builder.data_path} is damaged or missing ({error.message}). "
        "Prepare the data set again"
    )


def _undecodable(section: schema.Data, error: Exception) -> UserError | None:
    """The error that names the first image that can't be decoded; None if there is none.

    TensorFlow doesn't say which image it failed on, so all images are decoded to find it.
    """
    import tensorflow_datasets

    if section.name == "digits" or not re.search("jpeg|png", str(error), re.IGNORECASE):
        return None
    builder = prepared(section)
    for split in builder.info.splits:
        images = builder.as_dataset(
            split=split,
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
            read_config=tensorflow_datasets.ReadConfig(add_tfds_id=True),
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
                f"an image of {section.name} can't be decoded: {names} in {builder.data_path}. "
                "Prepare the data set again"
            )
    return None


def _unprepared(name: str, place: os.PathLike | str, data_dir: str | None) -> UserError:
    where = f" --data-dir {data_dir}" if data_dir else ""
    return UserError(
        f"the data set {name} is not prepared: nothing in {place}. Prepare it with 'python "
        f"tools/prepare_data.py {name}{where}', or name the directory that has it with "
        "data.data_dir=DIR or the environment variable TFDS_DATA_DIR"
    )


def _unreadable(name: str, data_dir: str | None, error: Exception) -> UserError:
    place = Path(data_dir or "~/tensorflow_datasets").expanduser() / name
    first = str(error).split("\n", maxsplit=1)[0]
    return UserError(
        f"the description of the data set {name} in {place} can't be read "
        f"({type(error).__name__}: {first:.200}). Prepare the data set again"
    )


def _data_dir(section: schema.Data) -> str | None:
    return section.data_dir or os.environ.get("TFDS_DATA_DIR")


def _quiet() -> None:
    """Silence the log messages of TFDS."""
    logging.getLogger("absl").setLevel(logging.ERROR)
