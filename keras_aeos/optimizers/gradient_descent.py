"""Gradient descent and its momentum forms: the optimizers whose preconditioner is the identity."""

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


@keras.saving.register_keras_serializable(package="keras_aeos")
class HeavyBall(GradientDescent):
    """Gradient descent with heavy-ball momentum.

    ``m⁺ = β₁m + g``, or ``β₁m + (1-β₁)g`` if `ema`, and ``x⁺ = x - η m⁺``, with ``P = I``. The
    stability threshold is ``(2+2β₁)/η``, or ``(2+2β₁)/((1-β₁)η)`` if `ema`.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        beta_1: Momentum coefficient β₁ in [0, 1).
        ema: Whether the buffer is an exponential moving average; the standard form if False.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If `beta_1` lies outside [0, 1).

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Section 2 and Table 1.
    """

    def __init__(self, learning_rate=0.01, beta_1=0.9, ema=False, name="heavy_ball", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.ema = ema
        self.momentum()  # checks beta_1

    def momentum(self):
        """Heavy ball."""
        return Momentum.heavy_ball(self.beta_1, self.ema)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "beta_1": self.beta_1, "ema": self.ema}


@keras.saving.register_keras_serializable(package="keras_aeos")
class Nesterov(HeavyBall):
    """Gradient descent with Nesterov momentum.

    The buffer is that of `HeavyBall`; the step looks ahead, ``x⁺ = x - η(β₁m⁺ + g)``, or
    ``x - η(β₁m⁺ + (1-β₁)g)`` if `ema`, with ``P = I``. The stability threshold is
    ``(2+2β₁)/((1+2β₁)η)``, or ``(2+2β₁)/((1-β₁)(1+2β₁)η)`` if `ema`.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        beta_1: Momentum coefficient β₁ in [0, 1).
        ema: Whether the buffer is an exponential moving average; the standard form if False.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If `beta_1` lies outside [0, 1).

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Table 1 and Appendix A.
    """

    def __init__(self, learning_rate=0.01, beta_1=0.9, ema=False, name="nesterov", **kwargs):
        super().__init__(learning_rate=learning_rate, beta_1=beta_1, ema=ema, name=name, **kwargs)

    def momentum(self):
        """Nesterov."""
        return Momentum.nesterov(self.beta_1, self.ema)
