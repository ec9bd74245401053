"""Small linear algebra on lists of vectors of shape (n,), shared by the eigensolvers."""

import numpy as np
import tensorflow as tf


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
        for i, direction in enumerate(basis):
            component = tf.reduce_sum(vector * direction)
            vector = vector - component * direction
            components[i] += float(component)
    return vector, components


def combine(basis, coefficients):
    """The vectors ``Σᵢ cᵢ bᵢ``, one for each column c of an array of shape (j, m)."""
    return [
        tf.add_n([float(c) * direction for c, direction in zip(column, basis, strict=True)])
        for column in coefficients.T
    ]


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
