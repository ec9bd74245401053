"""Upper bound on the eigenvalues that a Krylov space from a random start may have missed."""

import dataclasses
import math

import numpy as np

# Probability that an eigenvalue exceeds the bound.
_RISK = 0.01
# Relative precision of the distance between the bound and the largest Ritz value.
_PRECISION = 1e-3


class Certificate:
    """Probabilistic upper bound on the largest eigenvalue of A, from a Lanczos process.

    Let V be an orthonormal basis with ``AV = VT + β q eᵀ``, and u an eigenvector whose eigenvalue
    λ is no Ritz value. Then ``Vᵀu = β ⟨u,q⟩ (λI - T)⁻¹ e``. From the start vector v to q, the
    component of u grows by the factor

        1 / (β |(λI - T)⁻¹|_{last, first}) = Π |λ - θᵢ| / Π βᵢ,

    and no component can exceed 1. The random part of the start vector has norm b and is uniform on
    the sphere. Whatever the other part, it makes ``|⟨u,v⟩|`` exceed ``δ b √(π/2n)`` with a
    probability of at least 1 - δ. With this probability, λ does not lie where the growth exceeds
    ``√(2n/π)/(δ b)``. δ is 1%.

    Args:
        size: Number n of parameters.
        fraction: Norm b of the random part of the unit start vector.

    References:
        van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme
        eigenvalues of symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22,
        2000. The extension to restarted bases is ours.
    """

    def __init__(self, size: int, fraction: float) -> None:
        self._needed = 0.5 * math.log(2.0 * size / math.pi) - math.log(_RISK * fraction)
        self._cycles: list[Basis] = []

    def restart(self, basis: "Basis") -> None:
        """Account for a `Basis` that is replaced by its Ritz vectors and the next vector q."""
        self._cycles.append(basis)

    def excludes(self, value: float, basis: "Basis") -> bool:
        """Whether `value` is excluded as an eigenvalue, given the current `Basis`.

        Above all Ritz values the growth rises with the value. Every number above an excluded value
        is therefore excluded, too.
        """
        return sum(cycle.log_growth(value) for cycle in (*self._cycles, basis)) >= self._needed

    def upper_bound(self, basis: "Basis") -> float:
        """Smallest excluded number, given the current `Basis`.

        Its distance from the largest Ritz value is accurate to `_PRECISION`.

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
    """The facts that a `Certificate` needs about an orthonormal basis with ``AV = VT + β q eᵀ``.

    Attributes:
        values: Eigenvalues θ of T, shape (m,).
        vectors: Eigenvectors of T, the columns of an array of shape (m, m).
        beta: Coefficient β.
        begin: Index of the basis vector from which the basis was expanded.
    """

    values: np.ndarray
    vectors: np.ndarray
    beta: float
    begin: int

    def log_growth(self, value: float) -> float:
        """Logarithm of an eigenvector's growth from basis vector `begin` to q."""
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = self.vectors[self.begin] * self.vectors[-1] / (value - self.values)
            component = self.beta * abs(float(np.sum(parts)))
        return -math.log(component) if component > 0.0 else math.inf
