"""Eigensolvers and trace estimators of symmetric operators known by their products alone."""

from keras_aeos.solvers.by_name import SOLVERS
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power
from keras_aeos.solvers.result import Eigenpairs

__all__ = ["SOLVERS", "Eigenpairs", "lanczos", "power"]
