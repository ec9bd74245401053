"""The result type that every eigensolver returns."""

import dataclasses
from collections.abc import Iterable
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
        residuals: Relative residuals ``‖Av - λv‖ / |λ|`` of the unit vectors, shape (k,).
        error_bounds: Bounds on the relative distances to the nearest eigenvalues of A, shape (k,):
            the residual ρ, or ρ²/γ where the Ritz values show a relative gap γ around the value.
        upper_bound: No eigenvalue of A exceeds this number, with a probability of 99% over the
            solver's random start. NaN if the solver gives no such bound.
        converged: Booleans of shape (k,). Whether each pair met the solver's tolerance within the
            product limit; the largest pair must also meet the solver's certificate.
        num_hvps: Number of products with A (Hessian-vector products) spent.
        ritz_values: All Ritz values of the solver's last subspace, descending. The last one is an
            upper bound on the smallest eigenvalue of A.
        guard_vectors: Further Ritz vectors of shape (n,). Together with the eigenvectors they warm
            start a later solve.
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

    @property
    def spectral_gap(self) -> float:
        """``λ₁/λ₂``, or NaN if the second eigenvalue is unknown."""
        if len(self.ritz_values) < 2 or self.ritz_values[1] == 0.0:
            return float("nan")
        return float(self.ritz_values[0] / self.ritz_values[1])


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


def error_bounds(
    norms: np.ndarray, values: np.ndarray, earlier: Iterable[float] = ()
) -> np.ndarray:
    """Bounds on the distances from Ritz values to the nearest eigenvalues.

    The distance is at most the residual norm ρ, and at most ρ²/γ if no other eigenvalue is closer
    than γ. The gap γ is estimated from the other Ritz values, moved closer by their own residuals,
    and from those of an earlier solve.

    Args:
        norms: Residual norms ``‖Ay - θy‖`` of all Ritz pairs, shape (m,).
        values: Ritz values θ of these pairs, descending, shape (m,).
        earlier: Largest Ritz values of an earlier solve, descending.

    Returns:
        Array of shape (m,).

    References:
        Parlett, "The Symmetric Eigenvalue Problem", 1998, Theorem 11.7.1.
    """
    if len(values) == 1:
        return norms  # the gap is unknown
    gaps = np.abs(values[:, None] - values[None, :]) - norms[None, :]
    np.fill_diagonal(gaps, np.inf)
    nearest = gaps.min(axis=1)
    for index, value in enumerate(earlier):
        others = np.arange(len(values)) != index
        nearest = np.where(others, np.minimum(nearest, np.abs(values - value)), nearest)
    gap = np.maximum(nearest, norms)
    return norms * np.divide(norms, gap, out=np.zeros_like(norms), where=gap > 0.0)
