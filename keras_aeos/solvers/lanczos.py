"""Largest eigenpairs by thick-restart Lanczos with full re-orthogonalisation."""

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.certificate import Basis, Certificate
from keras_aeos.solvers.result import Eigenpairs, not_available, relative, spectral_gap
from keras_aeos.solvers.rounding import Rounding
from keras_aeos.solvers.vectors import Matvec, RandomDirections, Vectors, norm, unit

_Mixture = tuple[tuple[float, ...], float]
# Of a warm start: weights of the guards, where an old eigenvector has weight 1, and norm of the
# random part, where the part from old vectors has norm 1. Found with `tools/adversary.py`. A small
# residual hides less of an overtaking eigenvector the more the start vector holds of it. At a loose
# tolerance a large random part buys that for the fewest products, at a tight one the first guard.
_TIGHT_MIXTURE: _Mixture = (1.0,), 0.5
_LOOSE_MIXTURE: _Mixture = (), 3.0
_LOOSE_TOLERANCE = 1e-2
_MIXTURE_OF_SEVERAL: _Mixture = (0.5, 0.25, 0.125), 1.0
# A sum of both that is shorter would be mostly rounding.
_LEAST_NORM = 1e-3
# Ritz vectors below the wanted ones that are passed to the next solve.
_NUM_GUARDS = 2
# Margin of the certificate of a cold start, in units of `rtol`.
_COLD_MARGIN = 30.0


def lanczos(
    matvec: Matvec,
    start: tf.Tensor,
    num_eigenvalues: int,
    rtol: float,
    max_hvps: int,
    seed: int = 0,
    margin: float | None = None,
) -> Eigenpairs:
    """Largest eigenpairs of a symmetric operator A, from products with A alone.

    The solver builds an orthonormal basis V of a Krylov space with ``AV = VT + β q eᵀ``. It takes
    the eigenpairs of T, whose residuals ``‖Ay - θy‖ = β |s_last|`` cost nothing. A full basis is
    restarted from its best Ritz vectors.

    A small residual shows that an eigenvalue is near, not that it is the largest. A solve
    therefore ends only when

    - for each pair, the relative distance to the nearest eigenvalue is bounded by `rtol`, and
    - no eigenvalue exceeds ``(1 + margin) λ₁``, with a probability of 99% over the random part of
      the start vector (`Certificate`). A cold start also excludes an eigenvalue at
      ``(1 + margin) λᵢ``, or halfway to λᵢ₋₁ if that is closer, for each further pair.

    A warm start adds a random direction to the given vectors. Otherwise an old eigenvector, even an
    exact one, could hide an eigenvector that has overtaken it. For λ₁ alone its norm is three times
    theirs at an `rtol` of 1e-2 or more and half of theirs below, for several it is the same.

    Memory: a solve holds at most ``C = max(20, 2k + 10)`` basis vectors, and never more than
    products. While a full basis is restarted, its ``k + 4`` Ritz vectors are added, otherwise at
    most 8 vectors of work. It returns k + 3 vectors.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        start: Vectors of an earlier solve, best first: a tensor of shape (s, n), or (0, n) for a
            cold start.
        num_eigenvalues: Number k of eigenpairs, at most n.
        rtol: Relative tolerance of each eigenvalue.
        max_hvps: Largest number of products.
        seed: Seed of the random directions.
        margin: Relative margin of the certificate, for λ₁ alone, as in a warm start. None means
            the certificate of a cold start, ``30 rtol`` for all pairs.

    Returns:
        An `Eigenpairs` with vectors of shape (n,).

    References:
        Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
    """
    size = start.shape[1]
    tiny = 100.0 * np.finfo(start.dtype.as_numpy_dtype).eps
    num_checked = num_eigenvalues if margin is None else 1
    margin = _COLD_MARGIN * rtol if margin is None else margin
    capacity = min(max(20, 2 * num_eigenvalues + 10), size)
    num_kept = min(num_eigenvalues + 4, capacity - 1)
    random = RandomDirections(size, start.dtype, seed)

    vector, fraction = _start_vector(start, num_eigenvalues, rtol, random)
    basis = Vectors([vector])
    projection = np.zeros((capacity, capacity))
    certificate, begin = Certificate(size, fraction), 0
    rounding, coupling = Rounding(start.dtype), np.zeros(0)
    num_hvps = num_exhausted = 0
    while True:
        last = len(basis) - 1
        product, beta, coefficients = basis.orthogonalise(matvec(vector))
        num_hvps += 1
        projection[last, : last + 1] = projection[: last + 1, last] = coefficients
        if not np.isfinite(beta) or not np.all(np.isfinite(coefficients)):
            return not_available(num_eigenvalues, num_hvps)
        rounding.compare(coefficients[:last], coupling)

        values, vectors = np.linalg.eigh(projection[: last + 1, : last + 1])
        values, vectors = values[::-1], vectors[:, ::-1]
        complete = len(basis) == size
        norms = np.zeros(len(values)) if complete else beta * np.abs(vectors[-1])
        floor = tiny * np.abs(values).max()
        met = rounding.met(norms, values, rtol)
        reached = met | rounding.reached(norms, values)
        exhausted = beta <= floor
        num_exhausted += exhausted
        state = Basis(values, vectors, beta, begin)
        if complete:
            certified = True
        elif exhausted:
            # An invariant subspace holds one eigenvector per eigenvalue, which may be k-fold.
            certified = num_exhausted >= num_eigenvalues
        else:
            certified = all(
                certificate.excludes(value, state)
                for value in _above(values[:num_checked], margin, floor)
            )
        found = min(num_eigenvalues, len(values))
        if found == num_eigenvalues and reached[:found].all() and certified:
            break
        if num_hvps >= max_hvps:
            break

        # Components of the next vector's image along the basis, as symmetry makes them.
        coupling = np.append(np.zeros(last), beta)
        if exhausted:
            # Only a fresh direction leads out of an invariant subspace.
            product, beta, _ = basis.orthogonalise(random())
            certificate, begin = Certificate(size, 1.0), len(basis)
            coupling[:] = 0.0
        if len(basis) == capacity:
            if not exhausted:
                certificate.restart(state)
            coupling = coupling @ vectors[:, :num_kept]
            basis = Vectors(basis.combine(vectors[:, :num_kept]))
            projection[:] = 0.0
            projection[range(num_kept), range(num_kept)] = values[:num_kept]
            begin = num_kept
        vector = product / beta
        basis.append(vector)

    shown = min(found + _NUM_GUARDS, len(values))
    ritz = basis.combine(np.hstack([vectors[:, :shown], vectors[:, shown:][:, -1:]]))
    missing = [np.nan] * (num_eigenvalues - found)
    error = rounding.of_values(values)
    return Eigenpairs(
        eigenvalues=np.append(values[:found], missing),
        eigenvectors=[unit(vector) for vector in ritz[:found]],
        residuals=np.append(
            relative(norms + rounding.of_residuals(values), values)[:found], missing
        ),
        error_bounds=np.append(relative(norms + error, values)[:found], missing),
        upper_bound=error + (values[0] if complete else certificate.upper_bound(state)),
        converged=np.append(met[:found], np.zeros(len(missing), bool))
        & np.append(certified, np.ones(num_eigenvalues - 1, bool)),
        num_hvps=num_hvps,
        ritz_values=values,
        guard_vectors=[unit(vector) for vector in ritz[found:]],
        spectral_gap=spectral_gap(values, met),
    )


def _above(values: np.ndarray, margin: float, floor: float) -> np.ndarray:
    """Numbers above descending values, by the margin or halfway to the next larger value."""
    steps = np.maximum(margin * np.abs(values), floor)
    steps[1:] = np.minimum(steps[1:], -np.diff(values) / 2.0)
    return values + steps


def _start_vector(
    start: tf.Tensor, num_eigenvalues: int, rtol: float, random: RandomDirections
) -> tuple[tf.Tensor, float]:
    """A unit vector and the norm of its random part."""
    if start.shape[0] == 0:
        return random(), 1.0
    guards, fresh_norm = _mixture(num_eigenvalues, rtol)
    weights = np.array([1.0] * num_eigenvalues + list(guards))[: start.shape[0]]
    used = start[: len(weights)]
    old = unit(tf.linalg.matvec(used, tf.constant(weights, start.dtype), transpose_a=True))
    fresh = random()
    vector = old + fresh_norm * fresh
    length = norm(vector)
    if length < _LEAST_NORM:  # they cancel, in a space of few dimensions
        return fresh, 1.0
    return vector / length, fresh_norm / length


def _mixture(num_eigenvalues: int, rtol: float) -> _Mixture:
    """Weights of the guards and norm of the random part of a warm start."""
    if num_eigenvalues > 1:
        return _MIXTURE_OF_SEVERAL
    return _LOOSE_MIXTURE if rtol >= _LOOSE_TOLERANCE else _TIGHT_MIXTURE
