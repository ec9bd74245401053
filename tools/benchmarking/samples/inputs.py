"""What the samples are made of: inputs derived from a tensor of shape (4, 4)."""

from collections.abc import Callable

import tensorflow as tf

# A function of a tensor of shape (4, 4).
Sample = Callable[[tf.Tensor], tf.Tensor]

# Segments of four rows.
IDS = tf.constant([0, 0, 1, 2])


def image(x: tf.Tensor) -> tf.Tensor:
    """One image of 4 x 4 pixels and one channel."""
    return tf.reshape(x, (1, 4, 4, 1))


def positive(x: tf.Tensor) -> tf.Tensor:
    """Numbers of at least 1."""
    return x**2 + 1.0


def definite(x: tf.Tensor) -> tf.Tensor:
    """A positive definite matrix."""
    return x @ tf.transpose(x) + 2.0 * tf.eye(4, dtype=x.dtype)


def regular(x: tf.Tensor) -> tf.Tensor:
    """A matrix that is mostly invertible."""
    return x + 3.0 * tf.eye(4, dtype=x.dtype)


def complex_numbers(x: tf.Tensor) -> tf.Tensor:
    """A complex matrix (2, 4)."""
    return tf.complex(x[:2], x[2:])


def sparse_tensor(x: tf.Tensor) -> tf.SparseTensor:
    """Three numbers in a sparse matrix (4, 4)."""
    return tf.SparseTensor([[0, 0], [0, 2], [2, 1]], x[0, :3], [4, 4])


def ragged_tensor(x: tf.Tensor) -> tf.RaggedTensor:
    """Rows of 3, 5 and 8 numbers."""
    return tf.RaggedTensor.from_row_lengths(tf.reshape(x, [-1]), [3, 5, 8])
