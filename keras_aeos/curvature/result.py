"""The result type that every eigensolver returns."""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Largest (most positive) eigenvalues of a symmetric operator A, in descending order.

    Attributes:
        eigenvalues: float64 array of shape (k,).
        eigenvectors: Solvers: list of k unit vectors of shape (n,). `top_eigenpairs`: list of k
            lists of tensors in parameter coordinates, one tensor per trainable variable.
        residuals: Relative residuals ``‖Av - λv‖ / |λ|`` of the unit vectors, shape (k,).
        converged: Booleans of shape (k,): whether the pair met the tolerance within the product
            limit.
        num_hvps: Number of products with A (Hessian-vector products) that were spent.
        guard_vectors: Further Ritz vectors below the k-th, of shape (n,): with the eigenvectors
            they are the warm start of a later solve.
    """

    eigenvalues: np.ndarray
    eigenvectors: list
    residuals: np.ndarray
    converged: np.ndarray
    num_hvps: int
    guard_vectors: list[tf.Tensor] = dataclasses.field(default_factory=list)


def not_available(num_eigenvalues, num_hvps):
    """An `Eigenpairs` without values, for an operator that is not finite."""
    nan = np.full(num_eigenvalues, np.nan)
    return Eigenpairs(nan, [], nan.copy(), np.zeros(num_eigenvalues, bool), num_hvps)


def relative_residual(norm, eigenvalue):
    """``‖Av - λv‖ / |λ|``; 0 for the exact pair of a zero eigenvalue."""
    if norm == 0.0:
        return 0.0
    return norm / abs(eigenvalue) if eigenvalue else np.inf
