"""The eigensolvers by name."""

from collections.abc import Callable

from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power
from keras_aeos.solvers.result import Eigenpairs

SOLVERS: dict[str, Callable[..., Eigenpairs]] = {"lanczos": lanczos, "power": power}
