"""Largest eigenpairs by thick-restart Lanczos with full re-orthogonalisation."""

import math

import numpy as np
import tensorflow as tf

from keras_aeos.solvers import krylov
from keras_aeos.solvers.result import Eigenpairs, not_available, relative, spectral_gap
from keras_aeos.solvers.rounding import Rounding
from keras_aeos.solvers.state import Outcome, Settings
from keras_aeos.solvers.vectors import Matvec

# Margin of the certificate of a cold start, in units of `rtol`.
_COLD_MARGIN = 30.0
# Of a warm start: weights of the guards, where an old eigenvector has weight 1, and norm of the
# random part, where the part from old vectors has norm 1. Found with `tools/adversary.py`: for λ₁
# alone at a tight tolerance, more of the first guard saves products.
_MIXTURE = [0.5, 0.25, 0.125], 1.0
_TIGHT_MIXTURE = [1.0], 0.5
# Tolerance from which a solve is a loose one.
LOOSE_TOLERANCE = 1e-2


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
    exact one, could hide an eigenvector that has overtaken it. Its norm is that of their part or,
    for λ₁ alone at an `rtol` below 1e-2, half of it. With an infinite `margin` nothing is added and
    nothing excluded: the solve follows the old eigenvectors.

    Memory: room for at most ``C = max(20, 2k + 10)`` basis vectors is taken at the start, and never
    for more than `max_hvps`. While a full basis is restarted, its ``k + 4`` Ritz vectors are added,
    otherwise at most 8 vectors of work. The solve returns k + 3 vectors.

    The products of an `Operator` run in one graph with everything else, and the host is asked once.
    Another function is called from Python, with one question a product. Both ways perform the same
    operations.

    Args:
        matvec: An `Operator`, or a function from a tensor of shape (n,) to its product with A, of
            the same shape and dtype.
        start: Vectors of an earlier solve, best first: a tensor of shape (s, n), or (0, n) for a
            cold start.
        num_eigenvalues: Number k of eigenpairs, at most n.
        rtol: Relative tolerance of each eigenvalue.
        max_hvps: Largest number of products.
        seed: Seed of the random directions.
        margin: Relative margin of the certificate, for λ₁ alone, as in a warm start. None means
            the certificate of a cold start, ``30 rtol`` for all pairs. `math.inf` means none, for a
            warm start.

    Returns:
        An `Eigenpairs` with vectors of shape (n,).

    References:
        Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
    """
    settings = _settings(start, num_eigenvalues, rtol, max_hvps, seed, margin)
    outcome = krylov.solve(matvec, start, settings)
    return _eigenpairs(outcome, num_eigenvalues, margin == math.inf)


def _settings(
    start: tf.Tensor,
    num_eigenvalues: int,
    rtol: float,
    max_hvps: int,
    seed: int,
    margin: float | None,
) -> Settings:
    size = int(start.shape[1])
    guards, fresh_norm = _mixture(num_eigenvalues, rtol, margin)
    weights = ([1.0] * num_eigenvalues + guards)[: start.shape[0]]
    return Settings(
        num_eigenvalues=tf.constant(num_eigenvalues),
        num_checked=tf.constant(num_eigenvalues if margin is None else 1),
        max_hvps=tf.constant(max_hvps),
        capacity=tf.constant(min(max(20, 2 * num_eigenvalues + 10), size)),
        rtol=tf.constant(rtol, tf.float64),
        margin=tf.constant(_COLD_MARGIN * rtol if margin is None else margin, tf.float64),
        seed=tf.constant(seed, tf.int64),
        weights=tf.constant(weights, start.dtype),
        fresh_norm=tf.constant(fresh_norm, start.dtype),
    )


def _mixture(num_eigenvalues: int, rtol: float, margin: float | None) -> tuple[list[float], float]:
    """Weights of the guards and norm of the random part of a warm start."""
    if margin == math.inf:
        return [], 0.0
    tight = num_eigenvalues == 1 and rtol < LOOSE_TOLERANCE
    return _TIGHT_MIXTURE if tight else _MIXTURE


def _eigenpairs(outcome: Outcome, num_eigenvalues: int, followed: bool) -> Eigenpairs:
    num_hvps = int(outcome.num_hvps)
    if not outcome.finite:
        return not_available(num_eigenvalues, num_hvps)
    values, norms, met = (np.asarray(part) for part in (outcome.values, outcome.norms, outcome.met))
    rounding = Rounding(*(float(part) for part in outcome.rounding))
    found = min(num_eigenvalues, len(values))
    missing = [np.nan] * (num_eigenvalues - found)
    residuals = relative(norms + rounding.of_residuals, values)
    error_bounds = relative(norms + rounding.of_values, values)
    converged = np.append(met[:found], np.zeros(len(missing), bool))
    converged[0] &= bool(outcome.certified)
    ritz = tf.unstack(outcome.vectors)
    return Eigenpairs(
        eigenvalues=np.append(values[:found], missing),
        eigenvectors=ritz[:found],
        residuals=np.append(residuals[:found], missing),
        error_bounds=np.append(error_bounds[:found], missing),
        upper_bound=np.nan if followed else float(outcome.upper_bound) + rounding.of_values,
        converged=converged,
        num_hvps=num_hvps,
        ritz_values=values,
        guard_vectors=ritz[found:],
        spectral_gap=np.nan if followed else spectral_gap(values, met),
        followed=followed,
    )
