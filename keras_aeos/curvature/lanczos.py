"""Largest eigenpairs by thick-restart Lanczos with full re-orthogonalisation."""

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.result import Eigenpairs, not_available, relative_residual
from keras_aeos.curvature.vectors import RandomDirections, combine, orthogonalise, unit

# Products after the residuals have met the tolerance, in which the values must stay put. In them
# the Krylov space looks for eigenvectors that the start vector hardly contained.
_NUM_CONFIRMING_PRODUCTS = 2
# Norm of the fresh random part of a warm start, beside a unit vector of old Ritz vectors.
_FRESH_NORM = 1.0


def lanczos(matvec, start, num_eigenvalues, rtol, max_hvps, seed=0):
    """Largest eigenpairs of a symmetric operator A from products with it alone.

    Builds an orthonormal basis V of a Krylov space with ``AV = VT + β q eᵀ`` and takes the
    eigenpairs of T. Their residuals ``‖Ay - θy‖ = β |s_last|`` cost nothing. When the basis is
    full it is restarted from its best Ritz vectors. Because the Krylov space holds every
    eigenvector that its start vector holds, the most positive eigenvalues are found also when
    negative ones are larger in magnitude.

    A warm start mixes the given vectors with a fresh random direction, and a solve ends only after
    `_NUM_CONFIRMING_PRODUCTS` more products have left the converged values where they were: an
    old eigenvector alone, even an exact one, can't hide one that has overtaken it.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        start: Tensor of shape (s, n): vectors of an earlier solve, best first; or (0, n).
        num_eigenvalues: Number k of eigenpairs, at most n.
        rtol: Tolerance of the relative residual ``‖Av - λv‖ / |λ|``.
        max_hvps: Product limit.
        seed: Seed of the random directions.

    Returns:
        An `Eigenpairs` with vectors of shape (n,).

    References:
        Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
    """
    size = start.shape[1]
    rounding = np.finfo(start.dtype.as_numpy_dtype).eps
    capacity = min(max(16, 2 * num_eigenvalues + 8), size)
    num_kept = min(num_eigenvalues + 4, capacity - 1)
    random = RandomDirections(size, start.dtype, seed)

    basis = [unit(_start_vector(start, random))]
    projection = np.zeros((capacity, capacity))
    num_hvps = num_steady = 0
    previous = np.full(num_eigenvalues, np.nan)
    while True:
        product = matvec(basis[-1])
        num_hvps += 1
        product, coefficients = orthogonalise(product, basis)
        beta = float(tf.norm(product))
        last = len(basis) - 1
        projection[last, : last + 1] = projection[: last + 1, last] = coefficients
        if not np.isfinite(beta) or not np.all(np.isfinite(coefficients)):
            return not_available(num_eigenvalues, num_hvps)

        values, vectors = np.linalg.eigh(projection[: last + 1, : last + 1])
        values, vectors = values[::-1], vectors[:, ::-1]
        norm = np.abs(values).max()
        exhausted = beta <= 10.0 * rounding * norm or len(basis) == size
        top = values[:num_eigenvalues]
        errors = np.zeros(len(top)) if exhausted else beta * np.abs(vectors[-1, : len(top)])
        met = errors <= np.maximum(rtol * np.abs(top), 10.0 * rounding * norm)
        if len(top) == num_eigenvalues and met.all():
            steady = np.abs(top - previous) <= rtol * np.abs(top) + 10.0 * rounding * norm
            num_steady = num_steady + 1 if steady.all() else 0
            previous = top
            if num_steady >= _NUM_CONFIRMING_PRODUCTS or len(basis) == size:
                break
        else:
            previous = np.full(num_eigenvalues, np.nan)
        if num_hvps >= max_hvps:
            break

        if exhausted:
            # An invariant subspace: whatever lies outside is found from a fresh direction.
            product, _ = orthogonalise(random(), basis)
        if len(basis) == capacity:
            basis = combine(basis, vectors[:, :num_kept])
            projection[:] = 0.0
            projection[range(num_kept), range(num_kept)] = values[:num_kept]
        basis.append(unit(product))

    found = min(num_eigenvalues, len(values))
    ritz = combine(basis, vectors[:, : min(found + 2, len(values))])
    missing = num_eigenvalues - found
    return Eigenpairs(
        eigenvalues=np.append(top, np.full(missing, np.nan)),
        eigenvectors=ritz[:found],
        residuals=np.array(
            [relative_residual(e, v) for e, v in zip(errors, top, strict=True)] + [np.nan] * missing
        ),
        converged=np.append(met, np.zeros(missing, bool)),
        num_hvps=num_hvps,
        guard_vectors=ritz[found:],
    )


def _start_vector(start, random):
    if start.shape[0] == 0:
        return random()
    return unit(tf.reduce_sum(start, axis=0)) + _FRESH_NORM * random()
