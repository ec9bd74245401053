"""Training examples as float32 arrays in memory, standardised, in a fixed order."""

import logging
import os
from dataclasses import dataclass

import numpy as np

from trainers import schema
from trainers.errors import UserError


@dataclass(frozen=True)
class Examples:
    """`inputs`: float32 (N, height, width, channels); `labels`: int32 (N,), from 0."""

    inputs: np.ndarray
    labels: np.ndarray

    def first(self, count: int) -> "Examples":
        """The first `count` examples."""
        return Examples(self.inputs[:count], self.labels[:count])


def load(config: schema.Data) -> Examples:
    """Load the examples that a `data` section asks for.

    Each channel is shifted and scaled to mean 0 and variance 1 over the examples loaded.

    Raises:
        UserError: The data set is not on this machine.
    """
    count = schema.num_examples(config)
    if config.name == "digits":
        inputs, labels = _digits(count)
    else:
        inputs, labels = _from_tfds(config.name, config.data_dir, count)
    return Examples(standardise(inputs.astype(np.float32)), labels.astype(np.int32))


def standardise(images: np.ndarray) -> np.ndarray:
    """Shift and scale each channel, the last axis, to mean 0 and variance 1; in place."""
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axes, dtype=np.float64)
    deviation = images.std(axes, dtype=np.float64)
    images -= mean.astype(images.dtype)
    images /= np.maximum(deviation, np.finfo(np.float32).tiny).astype(images.dtype)
    return images


def _digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[:count, :, :, np.newaxis], digits.target[:count]


def _from_tfds(name: str, data_dir: str | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        where = f" --data-dir {data_dir}" if data_dir else ""
        raise UserError(
            f"the data set {name} is not prepared: nothing in {builder.data_path}. Prepare it by "
            f"'python tools/prepare_data.py {name}{where}', or name the directory that has it by "
            "data.data_dir=DIR or the environment variable TFDS_DATA_DIR"
        )
    batch = builder.as_dataset(split=f"train[:{count}]", batch_size=-1, shuffle_files=False)
    return batch["image"].numpy(), batch["label"].numpy()
