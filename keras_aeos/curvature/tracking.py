"""Eigenpairs of operators that change slowly, each solve started from the last one."""

import tensorflow as tf

from keras_aeos.curvature.eigenpairs import SOLVERS

# Solves of an operator from one with the full certificate to the next. Between them the certificate
# excludes no more than eigenvalues five times as large as λ₁; some of it is needed, because the
# first few Ritz values tell nothing of the gap below λ₁, and with it of the error.
_CHECK_FREQ = 10
_WARM_MARGIN = 4.0


class EigenpairTracker:
    """Solves for the largest eigenpairs of operators again and again.

    A solve starts from the vectors of the last one under its name and a fresh random direction.
    The first and every tenth go on until they are certified like a cold solve.

    Args:
        solver: Name of the solver, a key of `SOLVERS`.
        rtol: Tolerance of the relative error of each eigenvalue.
        max_hvps: Product limit of a solve.
    """

    def __init__(self, solver, rtol, max_hvps):
        self._solver = SOLVERS[solver]
        self._rtol = rtol
        self._max_hvps = max_hvps
        self._vectors = {}
        self._num_solves = {}

    def clear(self):
        """Forget all vectors, for operators of another size."""
        self._vectors.clear()
        self._num_solves.clear()

    def solve(self, name, matvec, like, num_eigenvalues, seed):
        """Largest eigenpairs of an operator.

        Args:
            name: Under this name the vectors are kept for the next solve.
            matvec: Function from a tensor of shape (n,) to its product with the operator.
            like: A tensor of that shape and dtype.
            num_eigenvalues: Number k of eigenpairs.
            seed: Seed of the random directions.

        Returns:
            An `Eigenpairs` with vectors of shape (n,).
        """
        start = self._vectors.get(name, tf.zeros([0, *like.shape], like.dtype))
        checked = self._num_solves.get(name, 0) % _CHECK_FREQ == 0
        result = self._solver(
            matvec,
            start,
            num_eigenvalues,
            self._rtol,
            self._max_hvps,
            seed=seed,
            margin=None if checked else _WARM_MARGIN,
        )
        if result.eigenvectors:
            self._vectors[name] = tf.stack(result.eigenvectors + result.guard_vectors)
            self._num_solves[name] = self._num_solves.get(name, 0) + 1
        return result
