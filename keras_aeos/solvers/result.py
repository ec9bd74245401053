"""The result type that every eigensolver returns."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Largest (most positive) eigenvalues of a symmetric operator A, in descending order.

    Attributes:
        eigenvalues: float64 array of shape (k,).
        eigenvectors: From a solver, a list of k unit vectors of shape (n,). From
            `top_eigenpairs`, a list of k lists of tensors in parameter coordinates, one tensor per
            trainable variable.
        residuals: Relative residuals ``‖Av - λv‖ / |λ|`` of the unit vectors, shape (k,), with the
            rounding of the products (`Rounding.of_residuals`).
        error_bounds: Bounds on the relative distances to the nearest eigenvalues of A, shape (k,):
            ``ρ / |λ|`` with the residual norm ρ, and the rounding of the products
            (`Rounding.of_values`).
        upper_bound: No eigenvalue of A exceeds this number, with a probability of 99% over the
            solver's random start, to the rounding of the products. NaN if the solve gives no such
            bound.
        converged: Booleans of shape (k,). Whether the error bound of each pair met the tolerance
            of the solve within the product limit, or the eigenvalue is zero to rounding; the
            largest pair must also meet the solver's certificate.
        num_hvps: Number of products with A (Hessian-vector products) spent.
        ritz_values: All Ritz values of the solver's last subspace, descending. The last one is an
            upper bound on the smallest eigenvalue of A.
        guard_vectors: Further Ritz vectors of shape (n,). Together with the eigenvectors they warm
            start a later solve.
        spectral_gap: ``λ₁/λ₂``. NaN until λ₁ and λ₂ have converged, so ask for two eigenvalues
            where it matters.
        followed: Whether the solve started from old eigenvectors alone. Then it excludes nothing,
            and its further Ritz values and vectors say little.
    """

    eigenvalues: np.ndarray
    eigenvectors: list[Any]
    residuals: np.ndarray
    error_bounds: np.ndarray
    upper_bound: float
    converged: np.ndarray
    num_hvps: int
    ritz_values: np.ndarray
    guard_vectors: list[tf.Tensor] = dataclasses.field(default_factory=list)
    spectral_gap: float = float("nan")
    followed: bool = False


def not_available(num_eigenvalues: int, num_hvps: int) -> Eigenpairs:
    """An `Eigenpairs` of NaNs, for an operator that is not finite."""
    nan = np.full(num_eigenvalues, np.nan)
    return Eigenpairs(
        eigenvalues=nan,
        eigenvectors=[],
        residuals=nan.copy(),
        error_bounds=nan.copy(),
        upper_bound=np.nan,
        converged=np.zeros(num_eigenvalues, bool),
        num_hvps=num_hvps,
        ritz_values=nan[:1],
    )


def relative(norms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Norms divided by the magnitudes of their values; 0 where the norm is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms == 0.0, 0.0, np.asarray(norms) / np.abs(values))


def spectral_gap(values: np.ndarray, met: np.ndarray) -> float:
    """``λ₁/λ₂`` of Ritz values; NaN unless both have converged and λ₂ is not 0."""
    if len(values) < 2 or not met[:2].all() or values[1] == 0.0:
        return float("nan")
    return float(values[0] / values[1])
