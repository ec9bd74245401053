"""How large an eigenvalue can be that a Krylov space from a random start has not shown."""

import dataclasses
import math

import numpy as np

# Probability with which an eigenvalue above the bound exists nevertheless.
_RISK = 0.01
# Precision of the distance between the bound and the largest Ritz value.
_PRECISION = 1e-3


class Certificate:
    """Probabilistic upper bound on the largest eigenvalue of A, from a Lanczos process.

    In an orthonormal basis V with ``AV = VT + β q eᵀ``, an eigenvector u of an eigenvalue λ that
    is no Ritz value has components ``Vᵀu = β ⟨u,q⟩ (λI - T)⁻¹ e``: its component grows, from that
    along the start vector v to that along q, by the factor

        1 / (β |(λI - T)⁻¹|_{last, first}) = Π |λ - θᵢ| / Π βᵢ,

    and it can't grow beyond 1. The start vector's random part, of norm b and uniform on the
    sphere, makes ``|⟨u,v⟩|`` exceed ``δ b √(π/2n)`` with a probability of at least 1 - δ, whatever
    its other part. So with this probability λ, wherever it lies, is not one for which the growth
    exceeds ``√(2n/π)/(δ b)``. δ is 1 %.

    Args:
        size: Number n of parameters.
        fraction: Norm b of the random part of the unit start vector.

    References:
        van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme
        eigenvalues of symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22,
        2000. The form for restarted bases is ours.
    """

    def __init__(self, size, fraction):
        self._needed = 0.5 * math.log(2.0 * size / math.pi) - math.log(_RISK * fraction)
        self._cycles = []

    def restart(self, basis):
        """Account for a `Basis` that is replaced by its Ritz vectors and the next vector q."""
        self._cycles.append(basis)

    def excludes(self, value, basis):
        """Whether `value` is no eigenvalue, given the current `Basis`.

        Above all Ritz values the growth rises with the value: whatever is larger than an excluded
        value is excluded, too.
        """
        return sum(cycle.log_growth(value) for cycle in (*self._cycles, basis)) >= self._needed

    def upper_bound(self, basis):
        """The least number that is excluded, given the current `Basis`.

        Its distance from the largest Ritz value is found to `_PRECISION`.

        Returns:
            A float; inf if nothing is excluded yet.
        """
        top = max(float(cycle.values.max()) for cycle in (*self._cycles, basis))
        scale = max(float(np.abs(basis.values).max()), np.finfo(float).tiny)
        low, high = 1e-12 * scale, 1e12 * scale
        if not self.excludes(top + high, basis):
            return math.inf
        while high > (1.0 + _PRECISION) * low:
            middle = math.sqrt(low * high)
            if self.excludes(top + middle, basis):
                high = middle
            else:
                low = middle
        return top + high


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a `Certificate` has to know of an orthonormal basis with ``AV = VT + β q eᵀ``.

    Attributes:
        values: Eigenvalues θ of T, shape (m,).
        vectors: Eigenvectors of T, as columns of an array of shape (m, m).
        beta: β.
        begin: Index of the basis vector from which the basis was expanded.
    """

    values: np.ndarray
    vectors: np.ndarray
    beta: float
    begin: int

    def log_growth(self, value):
        """Logarithm of an eigenvector's growth from the basis vector `begin` to q."""
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = self.vectors[self.begin] * self.vectors[-1] / (value - self.values)
            component = self.beta * abs(float(np.sum(parts)))
        return -math.log(component) if component > 0.0 else math.inf
