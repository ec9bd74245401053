"""The training loss of a Keras model as a function of its parameters, and its Hessian."""

from keras_aeos.curvature.critical_learning_rate import (
    CriticalLearningRate,
    critical_learning_rate,
)
from keras_aeos.curvature.device_memory import limit_memory
from keras_aeos.curvature.eigenpairs import Eigensolver, top_eigenpairs
from keras_aeos.curvature.layers import layer_eigenpairs
from keras_aeos.curvature.precision import allow_reduced_precision
from keras_aeos.curvature.second_derivative_check import check_second_derivatives

__all__ = [
    "CriticalLearningRate",
    "Eigensolver",
    "allow_reduced_precision",
    "check_second_derivatives",
    "critical_learning_rate",
    "layer_eigenpairs",
    "limit_memory",
    "top_eigenpairs",
]
