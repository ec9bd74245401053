"""Small linear algebra on vectors of shape (n,), shared by the eigensolvers."""

import math

import numpy as np
import tensorflow as tf


def norm(vector):
    """The Euclidean norm, a float."""
    return math.sqrt(2.0 * float(tf.nn.l2_loss(vector)))


def unit(vector):
    """The vector scaled to norm 1."""
    return vector / norm(vector)


class Vectors:
    """A growing number of vectors of shape (n,), the rows of a matrix.

    Args:
        matrix: The first ones: tensor of shape (j, n).
    """

    def __init__(self, matrix):
        self._matrix = matrix

    def __len__(self):
        return self._matrix.shape[0]

    def append(self, vector):
        """Add a tensor of shape (n,)."""
        self._matrix = tf.concat([self._matrix, vector[None]], 0)

    def orthogonalise(self, vector):
        """Remove the components along these vectors, which are orthonormal.

        They are removed twice: what rounding leaves the first time, a share of the vector that was
        given, would else grow from vector to vector of a Lanczos basis, by 1 over what is left.

        Args:
            vector: Tensor of shape (n,).

        Returns:
            The rest of the vector, its norm, and the removed components as a float64 array of
            shape (j,).
        """
        rest, *removed = _remove_twice(self._matrix, vector)
        return rest, norm(rest), np.sum(removed, axis=0, dtype=np.float64)

    def combine(self, coefficients):
        """The vectors ``Σᵢ cᵢ vᵢ`` for the columns c of an array of shape (j, m), as rows."""
        return tf.matmul(tf.constant(coefficients.T, self._matrix.dtype), self._matrix)


@tf.function(reduce_retracing=True, autograph=False)
def _remove_twice(matrix, vector):
    """The vector less its components along the rows, and what was removed each time."""
    removed = []
    for _ in range(2):
        removed.append(tf.linalg.matvec(matrix, vector))
        vector -= tf.linalg.matvec(matrix, removed[-1], transpose_a=True)
    return vector, *removed


class RandomDirections:
    """Source of random unit vectors that leaves the global seeds of TensorFlow and Keras alone."""

    def __init__(self, size, dtype, seed):
        self._size, self._dtype, self._seed, self._count = size, dtype, seed, 0

    def __call__(self):
        """The next direction, a tensor of shape (n,)."""
        self._count += 1
        return unit(
            tf.random.stateless_normal(
                [self._size], seed=[self._seed, self._count], dtype=self._dtype
            )
        )
