"""Small linear algebra on vectors of shape (n,), shared by the eigensolvers."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Maps a vector of shape (n,) to its product with an operator, of the same shape and dtype.
Matvec = Callable[[tf.Tensor], tf.Tensor]


def norm(vector: tf.Tensor) -> float:
    """Euclidean norm."""
    return math.sqrt(2.0 * float(tf.nn.l2_loss(vector)))


def unit(vector: tf.Tensor) -> tf.Tensor:
    """Scale a vector to norm 1."""
    return vector / norm(vector)


class Vectors:
    """A growing list of vectors of shape (n,), stored as the rows of a matrix.

    Args:
        matrix: Tensor of shape (j, n) with the first j vectors.
    """

    def __init__(self, matrix: tf.Tensor) -> None:
        self._matrix = matrix

    def __len__(self) -> int:
        return self._matrix.shape[0]

    def append(self, vector: tf.Tensor) -> None:
        """Append a tensor of shape (n,)."""
        self._matrix = tf.concat([self._matrix, vector[None]], 0)

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
        rest, *removed = _remove_twice(self._matrix, vector)
        return rest, norm(rest), np.asarray(removed).sum(axis=0, dtype=np.float64)

    def combine(self, coefficients: np.ndarray) -> tf.Tensor:
        """Rows ``Σᵢ cᵢ vᵢ``, one for each column c of an array of shape (j, m)."""
        return tf.matmul(tf.constant(coefficients.T, self._matrix.dtype), self._matrix)


@tf.function(reduce_retracing=True, autograph=False)
def _remove_twice(matrix: tf.Tensor, vector: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The vector without its components along the rows, and the components each pass removed."""
    removed: list[tf.Tensor] = []
    for _ in range(2):
        removed.append(tf.linalg.matvec(matrix, vector))
        vector -= tf.linalg.matvec(matrix, removed[-1], transpose_a=True)
    return vector, *removed


class RandomDirections:
    """Source of random unit vectors, independent of the global seeds of TensorFlow and Keras."""

    def __init__(self, size: int, dtype: tf.DType, seed: int) -> None:
        self._size, self._dtype, self._seed, self._count = size, dtype, seed, 0

    def __call__(self) -> tf.Tensor:
        """Draw the next direction, a tensor of shape (n,)."""
        self._count += 1
        return unit(
            tf.random.stateless_normal(
                [self._size], seed=[self._seed, self._count], dtype=self._dtype
            )
        )
