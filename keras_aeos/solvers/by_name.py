"""The eigensolvers by name, and what their arguments must meet."""

from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power

SOLVERS = {"lanczos": lanczos, "power": power}


def check_solver(num_parameters, num_eigenvalues, solver, rtol, max_hvps):
    """Raise ValueError for a solver's argument that is out of range."""
    if solver not in SOLVERS:
        raise ValueError(
            f"Unknown solver; expected one of {sorted(SOLVERS)}. Received: solver={solver!r}"
        )
    if not 1 <= num_eigenvalues <= num_parameters:
        raise ValueError(
            "`num_eigenvalues` must lie between 1 and the number of trainable parameters, "
            f"{num_parameters}. Received: num_eigenvalues={num_eigenvalues}"
        )
    if not 0.0 < rtol < 1.0:
        raise ValueError(f"`rtol` must lie between 0 and 1. Received: rtol={rtol}")
    if max_hvps < 1:
        raise ValueError(f"`max_hvps` must be at least 1. Received: max_hvps={max_hvps}")
