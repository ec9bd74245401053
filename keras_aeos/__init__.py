"""How close is the optimizer to instability? Curvature against stability, during training."""

from keras_aeos import optimizers
from keras_aeos.callbacks import AEoSMonitor
from keras_aeos.curvature import top_eigenpairs
from keras_aeos.optimizers.dynamics import preconditioner, stability_threshold

__version__ = "0.1.0"

__all__ = [
    "AEoSMonitor",
    "optimizers",
    "preconditioner",
    "stability_threshold",
    "top_eigenpairs",
]
