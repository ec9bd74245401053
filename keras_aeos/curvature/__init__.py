"""Hessian-vector products of a Keras model's training loss, and eigensolvers on them."""

from keras_aeos.curvature.check import check_second_derivatives
from keras_aeos.curvature.eigenpairs import top_eigenpairs
from keras_aeos.curvature.result import Eigenpairs

__all__ = ["Eigenpairs", "check_second_derivatives", "top_eigenpairs"]
