"""Eigensolvers and trace estimators of symmetric operators known by their products alone."""

from keras_aeos.solvers.by_name import SOLVERS, check_solver
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power
from keras_aeos.solvers.result import Eigenpairs

__all__ = ["SOLVERS", "Eigenpairs", "check_solver", "lanczos", "power"]
