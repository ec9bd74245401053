"""Upper bound on the eigenvalues that a Krylov space from a random start may have missed."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Probability that an eigenvalue exceeds the bound.
_RISK = 0.01
# Factors above the largest Ritz value between which the bound is looked for, and the numbers of
# intervals of each search. The distance of the bound is accurate to a factor of 1e24^(40^-3).
_RANGE = 1e24
_NUM_INTERVALS, _NUM_SEARCHES = 40, 3


class Basis(NamedTuple):
    """The facts that a `Certificate` needs about an orthonormal basis with ``AV = VT + β q eᵀ``.

    Attributes:
        values: Eigenvalues θ of T, a float64 tensor of shape (m,).
        weights: ``β |s_begin s_last|`` with its sign, for the eigenvectors s of T, shape (m,).
    """

    values: tf.Tensor
    weights: tf.Tensor


def describe(values: tf.Tensor, vectors: tf.Tensor, beta: tf.Tensor, begin: tf.Tensor) -> Basis:
    """The `Basis` with a matrix T.

    Args:
        values: Eigenvalues of T, shape (m,).
        vectors: Eigenvectors of T, the columns of a tensor of shape (m, m).
        beta: Coefficient β.
        begin: Index of the basis vector from which the basis was expanded.
    """
    return Basis(values, beta * vectors[begin] * vectors[-1])


class Certificate(NamedTuple):
    """Probabilistic upper bound on the largest eigenvalue of A, from a Lanczos process.

    Let V be an orthonormal basis with ``AV = VT + β q eᵀ``, and u an eigenvector whose eigenvalue
    λ is no Ritz value. Then ``Vᵀu = β ⟨u,q⟩ (λI - T)⁻¹ e``. From the start vector v to q, the
    component of u grows by the factor

        1 / (β |(λI - T)⁻¹|_{last, first}) = Π |λ - θᵢ| / Π βᵢ,

    and no component can exceed 1. The random part of the start vector has norm b and is uniform on
    the sphere. Whatever the other part, it makes ``|⟨u,v⟩|`` exceed ``δ b √(π/2n)`` with a
    probability of at least 1 - δ. With this probability, λ does not lie where the growth exceeds
    ``√(2n/π)/(δ b)``. δ is 1%.

    `certificate` makes one of the start vector.

    Attributes:
        needed: Logarithm of the growth that excludes an eigenvalue.
        values: Ritz values of the full bases before the present one, shape (r, m).
        weights: Their weights, shape (r, m).

    References:
        van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme
        eigenvalues of symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22,
        2000. The extension to restarted bases is ours.
    """

    needed: tf.Tensor
    values: tf.Tensor
    weights: tf.Tensor

    def restart(self, basis: Basis) -> "Certificate":
        """Account for a `Basis` that is replaced by its Ritz vectors and the next vector q."""
        return Certificate(
            self.needed,
            tf.concat([self.values, basis.values[None]], 0),
            tf.concat([self.weights, basis.weights[None]], 0),
        )

    def excludes(self, numbers: tf.Tensor, basis: Basis) -> tf.Tensor:
        """Whether numbers, shape (q,), are excluded as eigenvalues, given the current `Basis`.

        Above all Ritz values the growth rises with the number. Every number above an excluded one
        is therefore excluded, too.
        """
        before = tf.reduce_sum(log_growth(numbers[:, None], Basis(self.values, self.weights)), -1)
        return before + log_growth(numbers, basis) >= self.needed

    def upper_bound(self, basis: Basis) -> tf.Tensor:
        """Smallest excluded number, given the current `Basis`.

        Its distance from the largest Ritz value is accurate to a thousandth.

        Returns:
            A scalar; inf if nothing is excluded yet.
        """
        top = tf.maximum(tf.reduce_max(self.values), tf.reduce_max(basis.values))
        scale = tf.maximum(tf.reduce_max(tf.abs(basis.values)), np.finfo(float).tiny)
        low, ratio = scale / math.sqrt(_RANGE), _RANGE
        for _ in range(_NUM_SEARCHES):
            ratio **= 1.0 / _NUM_INTERVALS
            candidates = low * ratio ** tf.range(1, _NUM_INTERVALS + 1, dtype=tf.float64)
            excluded = self.excludes(top + candidates, basis)
            low = candidates[tf.argmax(excluded)] / ratio
        high = low * ratio
        return tf.where(self.excludes((top + high)[None], basis)[0], top + high, math.inf)


def certificate(size: tf.Tensor, fraction: tf.Tensor, capacity: tf.Tensor) -> Certificate:
    """The `Certificate` of a process that starts.

    Args:
        size: Number n of parameters.
        fraction: Norm b of the random part of the unit start vector.
        capacity: Number m of the vectors of a full basis.
    """
    size, fraction = tf.cast(size, tf.float64), tf.cast(fraction, tf.float64)
    needed = 0.5 * tf.math.log(2.0 * size / math.pi) - tf.math.log(_RISK * fraction)
    none = tf.zeros([0, capacity], tf.float64)
    return Certificate(needed, none, none)


def log_growth(numbers: tf.Tensor, basis: Basis) -> tf.Tensor:
    """Logarithm of an eigenvector's growth from the vector where a basis begins to q.

    Args:
        numbers: Eigenvalues, shape (...).
        basis: A `Basis` of shape (m,), or several of shape (r, m) for numbers of shape (..., 1).

    Returns:
        A tensor of shape (...), or (..., r) for several.
    """
    parts = basis.weights / (numbers[..., None] - basis.values)
    component = tf.abs(tf.reduce_sum(parts, -1))
    return tf.where(component > 0.0, -tf.math.log(component), math.inf)
