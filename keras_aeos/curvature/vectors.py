"""Small linear algebra on lists of vectors of shape (n,), shared by the eigensolvers."""

import numpy as np
import tensorflow as tf

# Vectors that are handled as one matrix at a time: as fast as all at once, without copying all.
_BLOCK = 8


def unit(vector):
    """The vector scaled to norm 1."""
    return vector / tf.norm(vector)


def orthogonalise(vector, basis):
    """Remove the components along an orthonormal basis, twice for full precision.

    Args:
        vector: Tensor of shape (n,).
        basis: List of j orthonormal tensors of shape (n,).

    Returns:
        The rest of the vector, and the removed components as a float64 array of shape (j,).
    """
    components = np.zeros(len(basis))
    for _ in range(2):
        for begin in range(0, len(basis), _BLOCK):
            block = tf.stack(basis[begin : begin + _BLOCK])
            removed = tf.linalg.matvec(block, vector)
            vector = vector - tf.linalg.matvec(block, removed, transpose_a=True)
            components[begin : begin + _BLOCK] += removed.numpy()
    return vector, components


def combine(basis, coefficients):
    """The vectors ``Σᵢ cᵢ bᵢ``, one for each column c of an array of shape (j, m)."""
    combined = 0.0
    for begin in range(0, len(basis), _BLOCK):
        block = tf.stack(basis[begin : begin + _BLOCK])
        rows = tf.constant(coefficients[begin : begin + _BLOCK].T, block.dtype)
        combined += tf.matmul(rows, block)
    return tf.unstack(combined)


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
