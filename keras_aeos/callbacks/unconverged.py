"""What a monitor says of rows whose solves end at their product limit."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_aeos.callbacks.quantities import FALLBACK
from keras_aeos.curvature.eigenpairs import Eigensolver

# Rows in succession that may end at the limit where the next one resumes the solve.
_MOST_UNCONVERGED = 5


class UnconvergedRows:
    """Warns once of rows that have not converged, if no later row makes up for them.

    Args:
        solver: The `Eigensolver`, for the texts.
        resumed: Whether one row may leave to the next what its limit does not allow.
        warn: Function of a text.
    """

    def __init__(self, solver: Eigensolver, resumed: bool, warn: Callable[[str], None]) -> None:
        self._solver = solver
        self._patience = _MOST_UNCONVERGED if resumed else 1
        self._warn = warn
        self._num_in_succession = 0
        self._said = False

    @property
    def lasting(self) -> bool:
        """Whether the limit was too small for rows in succession, which has been said."""
        return self._said

    def note(self, row: Mapping[str, Any]) -> None:
        """Take note of a new row."""
        self._num_in_succession = self._num_in_succession + 1 if _unconverged(row) else 0
        if self._num_in_succession >= self._patience and not self._said:
            self._said = True
            self._warn(
                f"At step {row['step']} an eigenvalue did not converge to "
                f"rtol={self._solver.rtol} within {self._solver.max_hvps} Hessian-vector products. "
                "Its row says converged=False and carries the error bound that was reached. From "
                f"now on rows have `{FALLBACK}` as well, by forward passes. To fix this, raise "
                "`max_hvps` or `rtol` of the solver."
            )

    def note_end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take note of the end of a `fit` with these rows."""
        if rows and not self._said and all(map(_unconverged, rows)):
            self._warn(
                f"None of the {len(rows)} rows of this `fit` has converged: an eigenvalue may be "
                "larger than its row says. Train longer, or give the monitor a `solver` with "
                "larger `max_hvps`."
            )


def _unconverged(row: Mapping[str, Any]) -> bool:
    """Whether a solve of the row ended at its limit."""
    return not row["converged"] and math.isfinite(row["residual"])
