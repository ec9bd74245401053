"""The trace of a symmetric operator from a few products, by Hutch++."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.vectors import Matvec, Vectors


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """An unbiased estimate of a trace.

    Attributes:
        value: The estimate.
        error: Standard error of the estimate, from the scatter of the random probes.
    """

    value: float
    error: float


def hutch_plus_plus(
    matvec: Matvec,
    known_vectors: Sequence[tf.Tensor],
    known_values: Sequence[float] | np.ndarray,
    num_probes: int,
    seed: int = 0,
) -> TraceEstimate:
    """Estimate ``tr A`` of a symmetric operator A.

    The part of A on a subspace is summed exactly and the rest is sampled. With an orthonormal
    basis Q of the subspace and random signs z,

        tr A ≈ Σᵢ qᵢᵀ A qᵢ + mean over z of zᵀ (I - QQᵀ) A (I - QQᵀ) z.

    The smaller A is outside the subspace, the less the second term scatters. The original method
    takes Q from a random sketch of A. This one takes the Ritz vectors of an eigensolver, which
    capture the largest eigenvalues. They cost no product, because their quadratic forms are the
    Ritz values.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        known_vectors: Vectors qᵢ, a list of orthonormal tensors of shape (n,).
        known_values: Quadratic forms ``qᵢᵀ A qᵢ`` of these vectors, of the same length.
        num_probes: Number of random vectors z, at least 2. Each costs one product.
        seed: Seed of the random signs.

    Returns:
        A `TraceEstimate`; NaN without known vectors, as after products that were not finite.

    References:
        Meyer, Musco, Musco and Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", 2021.
    """
    if not known_vectors:
        return TraceEstimate(math.nan, math.nan)
    basis = Vectors(known_vectors)
    samples: list[float] = []
    for index in range(num_probes):
        rest, *_ = basis.orthogonalise(random_signs(known_vectors[0], seed, index))
        samples.append(float(tf.tensordot(rest, matvec(rest), 1)))
    return TraceEstimate(
        value=float(np.sum(known_values)) + float(np.mean(samples)),
        error=float(np.std(samples, ddof=1)) / math.sqrt(num_probes),
    )


def random_signs(like: tf.Tensor, seed: int, index: int) -> tf.Tensor:
    """Vector number `index` of independent random signs, with the shape and dtype of `like`."""
    bits = tf.random.stateless_uniform(like.shape, [seed, index], 0, 2, tf.int32)
    return tf.cast(2 * bits - 1, like.dtype)
