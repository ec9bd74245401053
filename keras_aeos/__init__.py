"""How close is the optimizer to instability? Curvature against stability, during training."""

from keras_aeos import optimizers, stability
from keras_aeos.callbacks import (
    AEoSMonitor,
    Alarm,
    CurvatureWarmup,
    DivergenceAlarm,
    EdgeMeter,
    FreezePreconditioner,
)
from keras_aeos.curvature import (
    Eigensolver,
    allow_reduced_precision,
    check_second_derivatives,
    critical_learning_rate,
    layer_eigenpairs,
    limit_memory,
    top_eigenpairs,
)
from keras_aeos.optimizers.dynamics import (
    Dynamics,
    preconditioner,
    register_dynamics,
    stability_threshold,
)

__version__ = "0.1.0"

__all__ = [
    "AEoSMonitor",
    "Alarm",
    "CurvatureWarmup",
    "DivergenceAlarm",
    "Dynamics",
    "EdgeMeter",
    "Eigensolver",
    "FreezePreconditioner",
    "allow_reduced_precision",
    "check_second_derivatives",
    "critical_learning_rate",
    "layer_eigenpairs",
    "limit_memory",
    "optimizers",
    "preconditioner",
    "register_dynamics",
    "stability",
    "stability_threshold",
    "top_eigenpairs",
]
