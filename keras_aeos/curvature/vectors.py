"""Small linear algebra on vectors of shape (n,), shared by the eigensolvers."""

import math

import numpy as np
import tensorflow as tf

# Vectors in one matrix: a matrix is as fast for many as for all, and is made once.
_BLOCK = 8


def norm(vector):
    """The Euclidean norm, a float."""
    return math.sqrt(2.0 * float(tf.nn.l2_loss(vector)))


def unit(vector):
    """The vector scaled to norm 1."""
    return vector / norm(vector)


class Vectors:
    """A growing list of vectors of shape (n,), kept as the rows of matrices of up to `_BLOCK` rows.

    Args:
        vectors: The first ones: tensors of shape (n,).
    """

    def __init__(self, vectors=()):
        self._full = []
        self._rest = []
        self._rest_matrix = None
        self._last = []
        for vector in vectors:
            self.append(vector)

    def __len__(self):
        return _BLOCK * len(self._full) + len(self._rest)

    def append(self, vector):
        """Add a tensor of shape (n,)."""
        self._last = [*self._last[-1:], vector]
        self._rest.append(vector)
        self._rest_matrix = None
        if len(self._rest) == _BLOCK:
            self._full.append(tf.stack(self._rest))
            self._rest = []

    def orthogonalise(self, vector, only_last=False):
        """Remove the components along these vectors, which are orthonormal.

        They are removed twice: what rounding leaves the first time, a share of the vector that was
        given, would else grow from vector to vector of a Lanczos basis, by 1 over what is left.

        Args:
            vector: Tensor of shape (n,).
            only_last: Whether the vector has components along the last two alone, but for
                rounding, as a product in the Lanczos recurrence: the first time only these are
                removed.

        Returns:
            The rest of the vector, its norm, and the removed components as a float64 array of
            shape (j,).
        """
        components = np.zeros(len(self))
        if only_last:
            for index, last in enumerate(self._last, len(self) - len(self._last)):
                removed = tf.tensordot(last, vector, 1)
                vector = vector - removed * last
                components[index] += float(removed)
        for _ in range(1 if only_last else 2):
            for begin, matrix in self._matrices():
                removed = tf.linalg.matvec(matrix, vector)
                vector = vector - tf.linalg.matvec(matrix, removed, transpose_a=True)
                components[begin : begin + _BLOCK] += removed.numpy()
        return vector, norm(vector), components

    def combine(self, coefficients):
        """List of the vectors ``Σᵢ cᵢ vᵢ``, one for each column c of an array of shape (j, m)."""
        combined = 0.0
        for begin, matrix in self._matrices():
            rows = tf.constant(coefficients[begin : begin + _BLOCK].T, matrix.dtype)
            combined += tf.matmul(rows, matrix)
        return tf.unstack(combined)

    def _matrices(self):
        """The matrices, each with the index of its first vector."""
        if self._rest and self._rest_matrix is None:
            self._rest_matrix = tf.stack(self._rest)
        matrices = [*self._full, self._rest_matrix] if self._rest else self._full
        return [(_BLOCK * index, matrix) for index, matrix in enumerate(matrices)]


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
