"""Textbook solvers that keras_aeos is compared with, and their best settings in hindsight."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-3
MAX_PRODUCTS = 100


class Counted:
    """Count the calls of a function."""

    def __init__(self, function: Callable) -> None:
        self._function = function
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        self.count += 1
        return self._function(*arguments, **options)


def tridiagonal(product: Callable, start: np.ndarray, num_steps: int) -> tuple[np.ndarray, ...]:
    """Run Lanczos with full re-orthogonalisation in float64.

    Args:
        product: Function that multiplies a vector (n,) by the symmetric matrix A.
        start: Start vector (n,).
        num_steps: Number m of products.

    Returns:
        The tridiagonal matrix ``Qᵀ A Q`` (m, m) and the orthonormal rows Qᵀ (m, n).
    """
    basis = np.zeros((num_steps, len(start)))
    matrix = np.zeros((num_steps, num_steps))
    vector = np.asarray(start, np.float64)
    for step in range(num_steps):
        norm = np.linalg.norm(vector)
        if step:
            matrix[step, step - 1] = matrix[step - 1, step] = norm
        basis[step] = vector / norm
        vector = np.asarray(product(basis[step]), np.float64)
        matrix[step, step] = basis[step] @ vector
        for _ in range(2):
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
    return matrix, basis


def power(product: Callable, start: Any, tol: float, max_products: int) -> float:
    """Iterate until the Rayleigh quotient changes by less than `tol`, relative to itself.

    Args:
        product: Function that multiplies a vector by the symmetric matrix.
        start: Start vector, an array of NumPy or a tensor of PyTorch.
        tol: Tolerance of the change; 0.0 to use all products.
        max_products: Limit of the products.

    Returns:
        The last Rayleigh quotient.
    """
    vector, value = start / float(start @ start) ** 0.5, math.inf
    for _ in range(max_products):
        image = product(vector)
        previous, value = value, float(vector @ image)
        if abs(value - previous) < tol * abs(value):
            break
        vector = image / float(image @ image) ** 0.5
    return value


def arpack(product: Callable, start: np.ndarray, **options: Any) -> float:
    """Compute the largest eigenvalue with SciPy's `eigsh`."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=start.dtype)
    return float(eigsh(operator, k=1, which="LA", v0=start, **options)[0][0])


def tune_power(matrices: Iterable[np.ndarray], exact: float) -> int:
    """Find the fewest products with which power iteration is within `TOLERANCE` on all matrices.

    It starts from the first unit vector. `MAX_PRODUCTS` if that is too few.
    """

    def reached(matrix: np.ndarray) -> int:
        start = np.eye(len(matrix))[0]
        for number in range(1, MAX_PRODUCTS):
            if abs(power(matrix.__matmul__, start, 0.0, number) / exact - 1.0) <= TOLERANCE:
                return number
        return MAX_PRODUCTS

    return max(reached(matrix) for matrix in matrices)


def tune_lanczos(matrices: Iterable[np.ndarray], exact: npt.ArrayLike) -> int:
    """Find the fewest Lanczos steps with which the largest Ritz values are within `TOLERANCE`.

    `exact` is the largest eigenvalue, or several of them in ascending order.
    """
    exact = np.atleast_1d(exact)

    def reached(matrix: np.ndarray) -> int:
        for number in range(len(exact), len(matrix)):
            values = np.linalg.eigvalsh(matrix[:number, :number])[-len(exact) :]
            if np.all(np.abs(values / exact - 1.0) <= TOLERANCE):
                return number
        return len(matrix)

    return max(reached(matrix) for matrix in matrices)


def tune_arpack(matrices: list[np.ndarray], exact: float) -> dict[str, Any]:
    """Find the options of `eigsh` that are within `TOLERANCE` with the fewest products."""
    best, options = math.inf, {"tol": 0.0, "ncv": 20}
    for ncv, tol in itertools.product(range(3, 21), (0.3, 0.1, 0.03, 0.01, 1e-3)):
        cost = 0
        for matrix in matrices:
            product = Counted(matrix.__matmul__)
            try:
                value = arpack(product, np.eye(len(matrix))[0], tol=tol, ncv=ncv, maxiter=50)
            except RuntimeError:  # no convergence
                value = math.nan
            error = abs(value / exact - 1.0)
            cost = max(cost, product.count if error <= TOLERANCE else sys.maxsize)
        if cost < best:
            best, options = cost, {"tol": tol, "ncv": ncv}
    return options
