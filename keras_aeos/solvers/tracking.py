"""Eigenpairs of operators that change slowly, each solve started from the last one."""

import math

import tensorflow as tf

from keras_aeos.solvers.by_name import SOLVERS
from keras_aeos.solvers.lanczos import LOOSE_TOLERANCE
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.vectors import Matvec

# Every tenth solve of an operator carries the full certificate. In between, the certificate
# excludes only eigenvalues five times as large as λ₁, and of three solves that may follow the old
# eigenvector two have none.
_CHECK_FREQ = 10
_EXCLUDE_FREQ = 3
_WARM_MARGIN = 4.0
# By what a solve that follows exceeds the tolerance of the bound: this is of first order in the
# error of the vector, the error of the value of second order.
_FOLLOWING_FACTOR = 2.0


class EigenpairTracker:
    """Solves for the largest eigenpairs of slowly changing operators, repeatedly.

    A solve starts from the vectors of the last solve under its name and a fresh random direction.
    The first solve and every tenth one continue until they are certified like a cold solve. Of the
    last solve k + 3 vectors are kept.

    A solve by Lanczos for λ₁ alone, to 1e-2 or less exactly, may `follow` the old eigenvector: two
    of three then start from it alone, and end at an error bound of ``2 rtol``. They take one to
    three products where the operator moves slowly, and can't see an eigenvalue that rises
    elsewhere. The next one with a random direction does.

    Args:
        solver: Name of the solver, a key of `SOLVERS`.
        rtol: Tolerance of the relative error of each eigenvalue.
        max_hvps: Product limit of a solve.

    Attributes:
        max_hvps: As given; may be changed between solves.
    """

    def __init__(self, solver: str, rtol: float, max_hvps: int) -> None:
        self._solver = SOLVERS[solver]
        self._can_follow = solver == "lanczos" and rtol >= LOOSE_TOLERANCE
        self._rtol = rtol
        self.max_hvps = max_hvps
        self._last: dict[str, tf.Tensor] = {}
        self._num_solves: dict[str, int] = {}

    def clear(self) -> None:
        """Forget all vectors, for operators of another size."""
        self._last.clear()
        self._num_solves.clear()

    def solve(
        self,
        name: str,
        matvec: Matvec,
        like: tf.Tensor,
        num_eigenvalues: int,
        seed: int,
        follow: bool = False,
    ) -> Eigenpairs:
        """Largest eigenpairs of an operator.

        Args:
            name: Under this name the vectors are kept for the next solve.
            matvec: Function from a tensor of shape (n,) to its product with the operator.
            like: A tensor of that shape and dtype.
            num_eigenvalues: Number k of eigenpairs.
            seed: Seed of the random directions.
            follow: Whether the solve may start from the old eigenvector alone. False (default) for
                operators that are solved too rarely for that.

        Returns:
            An `Eigenpairs` with vectors of shape (n,).
        """
        num_solves = self._num_solves.get(name, 0)
        vectors = self._last.get(name, tf.zeros([0, *like.shape], like.dtype))
        margin = self._margin(num_solves, num_eigenvalues, follow)
        factor = _FOLLOWING_FACTOR if margin == math.inf else 1.0
        result = self._solver(
            matvec,
            vectors,
            num_eigenvalues,
            factor * self._rtol,
            self.max_hvps,
            seed=seed,
            margin=margin,
        )
        if result.eigenvectors:
            if result.followed:  # its own guards say little
                self._last[name] = tf.concat([result.eigenvectors, vectors[1:]], 0)
            else:
                self._last[name] = tf.stack(result.eigenvectors + result.guard_vectors)
            self._num_solves[name] = num_solves + 1
        return result

    def _margin(self, num_solves: int, num_eigenvalues: int, follow: bool) -> float | None:
        """Margin of the certificate after so many solves, inf for none."""
        if num_solves % _CHECK_FREQ == 0:
            return None
        follow &= self._can_follow and num_eigenvalues == 1
        return math.inf if follow and num_solves % _EXCLUDE_FREQ != 1 else _WARM_MARGIN
