"""Small linear algebra on vectors of shape (n,), shared by the eigensolvers."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

# Vectors that lie together in one matrix. A matrix is copied while it grows.
_BLOCK = 4
# Maps a vector of shape (n,) to its product with an operator, of the same shape and dtype.
Matvec = Callable[[tf.Tensor], tf.Tensor]


def norm(vector: tf.Tensor) -> tf.Tensor:
    """Euclidean norm, a scalar of the vector's precision."""
    return tf.sqrt(2.0 * tf.nn.l2_loss(vector))


def unit(vector: tf.Tensor) -> tf.Tensor:
    """Scale a vector to norm 1."""
    return vector / norm(vector)


class Vectors:
    """A growing list of vectors of shape (n,), stored as the rows of matrices of `_BLOCK` rows.

    Args:
        vectors: The first vectors.
    """

    def __init__(self, vectors: Iterable[tf.Tensor] = ()) -> None:
        self._blocks: list[tf.Tensor] = []
        for vector in vectors:
            self.append(vector)

    def append(self, vector: tf.Tensor) -> None:
        """Append a tensor of shape (n,)."""
        if self._blocks and self._blocks[-1].shape[0] < _BLOCK:
            self._blocks[-1] = tf.concat([self._blocks[-1], vector[None]], 0)
        else:
            self._blocks.append(vector[None])

    def orthogonalise(self, vector: tf.Tensor) -> tuple[tf.Tensor, float, np.ndarray]:
        """Remove a vector's components along these vectors, which must be orthonormal.

        The components are removed twice. The first pass leaves a rounding error in proportion to
        the given vector. In a Lanczos basis, division by the norm of the rest would let it grow
        from vector to vector.

        Args:
            vector: Tensor of shape (n,).

        Returns:
            The rest of the vector, the norm of the rest, and the removed components as a float64
            array of shape (j,).
        """
        passes = []
        for _ in range(2):
            parts = []
            for block in self._blocks:
                vector, removed = _removed(block, vector)
                parts.append(removed)
            passes.append(parts)
        components = [
            np.concatenate([np.asarray(part, np.float64) for part in parts])
            for parts in passes
            if parts
        ]
        return (
            vector,
            float(norm(vector)),
            np.sum(components, axis=0) if components else np.zeros(0),
        )


def remove(matrix: tf.Tensor, vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The vector without its components along the rows, and the components."""
    removed = tf.linalg.matvec(matrix, vector)
    return vector - tf.matmul(removed[None], matrix)[0], removed


_removed = tf.function(remove, reduce_retracing=True, autograph=False)


class RandomDirections:
    """Source of random unit vectors, independent of the global seeds of TensorFlow and Keras."""

    def __init__(self, size: int, dtype: tf.DType, seed: int) -> None:
        self._size, self._dtype, self._seed, self._count = size, dtype, seed, 0

    def __call__(self) -> tf.Tensor:
        """Draw the next direction, a tensor of shape (n,)."""
        self._count += 1
        return random_direction(self._size, self._dtype, self._seed, self._count)


def random_direction(size: Any, dtype: tf.DType, seed: Any, index: Any) -> tf.Tensor:
    """Number `index` of the random unit vectors of a seed, a tensor of shape (n,)."""
    return unit(tf.random.stateless_normal([size], seed=[seed, index], dtype=dtype))
