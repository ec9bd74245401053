"""Small images, all in memory, as standardised float32 arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainers import schema
from trainers.data import tfds
from trainers.data.share import ALL, Share


@dataclass(frozen=True)
class Examples:
    """`inputs`: float32 (N, height, width, channels); `labels`: int32 (N,), from 0."""

    inputs: np.ndarray
    labels: np.ndarray


class Standardise:
    """Shifts and scales each channel, the last axis, by constants.

    Args:
        images: float32 (N, height, width, channels). The constants bring its channels to mean 0
            and variance 1; a constant channel becomes 0.
    """

    def __init__(self, images: np.ndarray) -> None:
        axes = tuple(range(images.ndim - 1))
        self._mean = images.mean(axes, dtype=np.float64).astype(images.dtype)
        deviation = images.std(axes, dtype=np.float64)
        self._deviation = np.maximum(deviation, np.finfo(np.float32).tiny).astype(images.dtype)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Standardise images in place, and return them."""
        images -= self._mean
        images /= self._deviation
        return images


def load(section: schema.Data) -> tuple[Examples, Standardise]:
    """Load the training examples that a `data` section asks for.

    Each channel is shifted and scaled to mean 0 and variance 1 over the examples loaded.

    Returns:
        The examples, and the transformation that standardises others in the same way.

    Raises:
        UserError: The data set is not on this machine.
    """
    count = schema.num_examples(section)
    if section.name == "digits":
        inputs, labels = _digits(count)
    else:
        inputs, labels = _from_tfds(section, "train", count)
    standardise = Standardise(inputs)
    return Examples(standardise(inputs), labels), standardise


def targets(config: schema.Config, labels: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Labels in the form the loss takes: one-hot float32 (N, classes) for the squared error."""
    if config.loss == "cross_entropy":
        return labels
    return tf.one_hot(labels, schema.DATASETS[config.data.name].num_classes)


class ImagesInMemory:
    """A `Source` of examples in memory."""

    def __init__(self, config: schema.Config) -> None:
        self._config = config
        self._examples, self._standardise = load(config.data)
        self.num_examples = len(self._examples.labels)
        # A full batch is measured as it is trained: both have the same tensors.
        self._last_cut: tuple[Any, tuple[tf.Tensor, ...]] = (None, ())

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """The first `num_examples` in micro-batches of `size`."""
        return tf.data.Dataset.from_tensor_slices(self._cut(num_examples, size))

    def full_batch(self, size: int) -> tuple[tf.Tensor, ...]:
        """All examples in micro-batches of `size`."""
        return self._cut(self.num_examples, size)

    def _cut(self, num_examples: int, size: int) -> tuple[tf.Tensor, ...]:
        """Inputs and targets of the first examples, (micro-batches, size, ...), on the host."""
        if self._last_cut[0] != (num_examples, size):
            inputs = self._examples.inputs[:num_examples]
            wanted = targets(self._config, self._examples.labels[:num_examples])
            with tf.device("CPU:0"):
                parts = [
                    tf.constant(np.reshape(array, (-1, size, *array.shape[1:])))
                    for array in (inputs, wanted)
                ]
            self._last_cut = (num_examples, size), tuple(parts)
        return self._last_cut[1]

    def shuffled(self, batch: int, size: int, share: Share = ALL) -> tf.data.Dataset:
        """Endless random batches, each in micro-batches of `size`."""
        inputs = tf.constant(self._examples.inputs)
        wanted = tf.constant(targets(self._config, self._examples.labels))
        rows = tf.data.Dataset.range(self.num_examples)
        rows = rows.shuffle(self.num_examples, seed=self._config.seed)
        rows = rows.batch(batch, drop_remainder=True).repeat().skip(share.initial_update)
        return (
            rows.map(lambda i: share.pieces(i, size))
            .unbatch()
            .map(lambda i: (tf.gather(inputs, i), tf.gather(wanted, i)), tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )

    def test(self, size: int) -> tf.data.Dataset:
        """The test split in micro-batches of `size`, standardised like the training examples."""
        split = schema.DATASETS[self._config.data.name].test_split
        inputs, labels = _from_tfds(self._config.data, split, None)
        arrays = self._standardise(inputs), targets(self._config, labels)
        return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def _digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[:count, :, :, np.newaxis]
    return images.astype(np.float32), digits.target[:count].astype(np.int32)


def _from_tfds(
    section: schema.Data, split: str, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The first examples of a split, all of them if `count` is None."""
    builder = tfds.prepared(section)
    tfds.check_split(builder, split, count or 1)
    wanted = split if count is None else f"{split}[:{count}]"
    batch = builder.as_dataset(split=wanted, batch_size=-1, shuffle_files=False)
    return batch["image"].numpy().astype(np.float32), batch["label"].numpy().astype(np.int32)
