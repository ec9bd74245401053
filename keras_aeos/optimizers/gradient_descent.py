"""Gradient descent: the optimizer whose preconditioner is the identity."""

import keras

from keras_aeos.optimizers.base import PreconditionedOptimizer
from keras_aeos.stability import Momentum


@keras.saving.register_keras_serializable(package="keras_aeos")
class GradientDescent(PreconditionedOptimizer):
    """Gradient descent without momentum.

    ``x⁺ = x - η g``, with ``P = I`` and stability threshold ``2/η``.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    References:
        Cohen et al. 2022, Table 1.
    """

    def __init__(self, learning_rate=0.01, name="gradient_descent", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    def momentum_kind(self):
        """No momentum."""
        return Momentum()

    def diagonal(self, index, step):
        """``P = I``, as a scalar."""
        return 1.0
