"""Eigenpairs of operators that change slowly, each solve started from the last one."""

import tensorflow as tf

from keras_aeos.curvature.eigenpairs import SOLVERS

# Solves of an operator from one with the full certificate to the next. Between them the certificate
# excludes only eigenvalues five times as large as λ₁.
_CHECK_FREQ = 10
_WARM_MARGIN = 4.0


class EigenpairTracker:
    """Solves for the largest eigenpairs of operators again and again.

    A solve starts from the vectors of the last one under its name and a fresh random direction,
    and takes the last eigenvalues into account where it bounds the errors. The first solve and
    every tenth go on until they are certified like a cold one.

    Args:
        solver: Name of the solver, a key of `SOLVERS`.
        rtol: Tolerance of the relative error of each eigenvalue.
        max_hvps: Product limit of a solve.
    """

    def __init__(self, solver, rtol, max_hvps):
        self._solver = SOLVERS[solver]
        self._rtol = rtol
        self._max_hvps = max_hvps
        self._last = {}
        self._num_solves = {}

    def clear(self):
        """Forget all vectors, for operators of another size."""
        self._last.clear()
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
        num_solves = self._num_solves.get(name, 0)
        vectors, values = self._last.get(name, (tf.zeros([0, *like.shape], like.dtype), ()))
        result = self._solver(
            matvec,
            vectors,
            num_eigenvalues,
            self._rtol,
            self._max_hvps,
            seed=seed,
            margin=_WARM_MARGIN if num_solves % _CHECK_FREQ else None,
            earlier=values,
        )
        if result.eigenvectors:
            vectors = tf.stack(result.eigenvectors + result.guard_vectors)
            self._last[name] = vectors, result.ritz_values[: num_eigenvalues + 1]
            self._num_solves[name] = num_solves + 1
        return result
