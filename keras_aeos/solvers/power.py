"""Largest eigenpairs by block power iteration with a shift."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.result import Eigenpairs, not_available, relative, spectral_gap
from keras_aeos.solvers.rounding import Rounding, zero
from keras_aeos.solvers.vectors import Matvec, RandomDirections, Vectors, norm, unit

# Iterations after which the guard column has revealed an eigenvector that the others miss.
_MIN_ITERATIONS = 5
# Tolerance of the guard column, in units of the wanted columns' tolerance.
_GUARD_TOLERANCE = 10.0


def power(
    matvec: Matvec,
    start: tf.Tensor,
    num_eigenvalues: int,
    rtol: float,
    max_hvps: int,
    seed: int = 0,
    margin: float | None = None,
) -> Eigenpairs:
    """Largest eigenpairs of a symmetric operator A by power iteration on a block of vectors.

    The block V has k wanted columns and one guard column. Each iteration computes the Ritz pairs
    of V from its image AV and continues with an orthonormal basis of ``(A + σI)V``. The shift σ
    starts at 0. If a Ritz value shows that the negative end of the spectrum rivals the positive
    one, σ is raised to minus that value. The most positive eigenvalues of A then become the largest
    of ``A + σI`` in magnitude.

    The guard column starts as a random direction. A solve takes at least `_MIN_ITERATIONS`
    iterations. It ends only when the guard column, too, has nearly converged, to an eigenvalue
    below the wanted ones. It therefore finds an eigenvector that has overtaken the old ones.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        start: Vectors of an earlier solve, best first: a tensor of shape (s, n), or (0, n) for a
            cold start.
        num_eigenvalues: Number k of eigenpairs, at most n.
        rtol: Relative tolerance of each eigenvalue.
        max_hvps: Largest number of products.
        seed: Seed of the random directions.
        margin: Not used, because power iteration has no certificate.

    Returns:
        An `Eigenpairs` with vectors of shape (n,).
    """
    size = start.shape[1]
    width = min(num_eigenvalues + 1, size)
    random = RandomDirections(size, start.dtype, seed)
    old = tf.unstack(start)[: min(num_eigenvalues, width)]
    block = _orthonormal(old + [random() for _ in range(width - len(old))])

    shift, num_hvps, iteration = 0.0, 0, 0
    epsilon, asymmetry = float(np.finfo(start.dtype.as_numpy_dtype).eps), 0.0
    while True:
        rows, images = tf.stack(block), tf.stack([matvec(column) for column in block])
        num_hvps += width
        iteration += 1
        projection = np.asarray(tf.matmul(rows, images, transpose_b=True), np.float64)
        if not np.all(np.isfinite(projection)):
            return not_available(num_eigenvalues, num_hvps)
        asymmetry = max(asymmetry, float(np.abs(projection - projection.T).max()))
        values, rotation = np.linalg.eigh((projection + projection.T) / 2.0)
        values, rotation = values[::-1], rotation[:, ::-1]
        turn = tf.constant(rotation.T, start.dtype)
        rows, images = tf.matmul(turn, rows), tf.matmul(turn, images)

        differences = images - tf.constant(values[:, None], start.dtype) * rows
        norms = np.asarray(tf.norm(differences, axis=1), np.float64)
        rounding = Rounding(asymmetry, zero(np.abs(values).max(), epsilon))
        met = rounding.met(norms, values, rtol)
        reached = (met | rounding.reached(norms))[:num_eigenvalues]
        settled = iteration >= _MIN_ITERATIONS and np.all(
            norms[num_eigenvalues:] <= _GUARD_TOLERANCE * rtol * abs(values[num_eigenvalues - 1])
        )
        rivalled = -values[-1] > max(shift, values[0] / 2.0)
        if rivalled and width < size:
            shift = -values[-1]
        elif reached.all() and (settled or width == size):
            break
        if num_hvps + width > max_hvps:
            break
        block = _orthonormal(tf.unstack(images + float(shift) * rows), random)

    block = tf.unstack(rows)
    return Eigenpairs(
        eigenvalues=values[:num_eigenvalues],
        eigenvectors=[unit(v) for v in block[:num_eigenvalues]],
        residuals=relative(norms + rounding.of_residuals, values)[:num_eigenvalues],
        error_bounds=relative(norms + rounding.of_values, values)[:num_eigenvalues],
        upper_bound=np.nan,
        converged=met[:num_eigenvalues],
        num_hvps=num_hvps,
        ritz_values=values,
        guard_vectors=[unit(v) for v in block[num_eigenvalues:]],
        spectral_gap=spectral_gap(values, met),
    )


def _orthonormal(
    vectors: Sequence[tf.Tensor], random: RandomDirections | None = None
) -> list[tf.Tensor]:
    """Orthonormal basis of the span; `random` replaces directions that vanish."""
    basis = Vectors()
    columns: list[tf.Tensor] = []
    for vector in vectors:
        rest, left, _ = basis.orthogonalise(vector)
        if random is not None and left <= 1e-6 * float(norm(vector)):
            rest, left, _ = basis.orthogonalise(random())
        columns.append(rest / left)
        basis.append(columns[-1])
    return columns
