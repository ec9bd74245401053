"""The trace of a symmetric operator from few products, by Hutch++."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.vectors import Vectors


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """An unbiased estimate of a trace.

    Attributes:
        value: The estimate.
        error: Its standard error, from the scatter of the random probes.
    """

    value: float
    error: float


def hutch_plus_plus(matvec, known_vectors, known_values, num_probes, seed=0):
    """Estimate ``tr A`` of a symmetric operator A.

    The part of A on a subspace is summed exactly and the rest is sampled. With an orthonormal
    basis Q of the subspace and random signs z,

        tr A ≈ Σᵢ qᵢᵀ A qᵢ + mean over z of zᵀ (I - QQᵀ) A (I - QQᵀ) z.

    The scatter of the second term falls with what A has left outside of the subspace. Where the
    original takes a random sketch of A for Q, this takes the Ritz vectors of an eigensolver, whose
    quadratic forms are the Ritz values: they hold the largest eigenvalues and cost no product.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        known_vectors: The vectors qᵢ: a non-empty list of orthonormal tensors of shape (n,).
        known_values: Their quadratic forms ``qᵢᵀ A qᵢ``, of the same length.
        num_probes: Number of random vectors z, at least 2, and of products.
        seed: Seed of the random signs.

    Returns:
        A `TraceEstimate`.

    References:
        Meyer, Musco, Musco and Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", 2021.
    """
    basis, samples = Vectors(tf.stack(known_vectors)), []
    for index in range(num_probes):
        rest, *_ = basis.orthogonalise(random_signs(known_vectors[0], seed, index))
        samples.append(float(tf.tensordot(rest, matvec(rest), 1)))
    return TraceEstimate(
        value=float(np.sum(known_values)) + float(np.mean(samples)),
        error=float(np.std(samples, ddof=1)) / math.sqrt(num_probes),
    )


def random_signs(like, seed, index):
    """Vector number `index` of independent random signs, of the shape and dtype of another."""
    bits = tf.random.stateless_uniform(like.shape, [seed, index], 0, 2, tf.int32)
    return tf.cast(2 * bits - 1, like.dtype)
