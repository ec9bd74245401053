"""Gradient descent and its momentum forms: the optimizers whose preconditioner is the identity."""

from typing import Any, ClassVar

import keras

from keras_aeos import constraints
from keras_aeos.optimizers.base import LearningRate, PreconditionedOptimizer, keras_spelling
from keras_aeos.stability import Momentum


@keras.saving.register_keras_serializable(package="keras_aeos")
class GradientDescent(PreconditionedOptimizer):
    """Gradient descent without momentum.

    ``x⁺ = x - η g``, with ``P = I`` and stability threshold ``2/η``.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.01 by default.
        name: String. Name of the optimizer, "gradient_descent" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    References:
        Cohen et al. 2022, Table 1.
    """

    not_supported: ClassVar[dict[str, str]] = {
        "momentum": "Use keras_aeos.optimizers.HeavyBall.",
        "nesterov": "Use keras_aeos.optimizers.Nesterov.",
    }

    def __init__(
        self, learning_rate: LearningRate = 0.01, name: str = "gradient_descent", **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="keras_aeos")
class HeavyBall(GradientDescent):
    """Gradient descent with heavy-ball momentum.

    ``m⁺ = β₁m + g``, or ``β₁m + (1-β₁)g`` if `ema`, and ``x⁺ = x - η m⁺``, with ``P = I``. The
    stability threshold is ``(2+2β₁)/η``, or ``(2+2β₁)/((1-β₁)η)`` if `ema`.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.01 by default.
        beta_1: Float in [0, 1). Momentum coefficient β₁, 0.9 by default. Keras' name `momentum` is
            accepted.
        ema: Boolean. Whether the buffer is an exponential moving average; False (default) for the
            standard form.
        name: String. Name of the optimizer, "heavy_ball" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Section 2 and Table 1.
    """

    not_supported: ClassVar[dict[str, str]] = {"nesterov": "Use keras_aeos.optimizers.Nesterov."}

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta_1: float = 0.9,
        ema: bool = False,
        name: str = "heavy_ball",
        **kwargs: Any,
    ) -> None:
        beta_1 = keras_spelling(kwargs, "momentum", "beta_1", beta_1, default=0.9)
        constraints.check(beta_1=beta_1, ema=ema)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.ema = ema

    def momentum(self) -> Momentum:
        """Heavy ball."""
        return Momentum.heavy_ball(self.beta_1, self.ema)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "beta_1": self.beta_1, "ema": self.ema}


@keras.saving.register_keras_serializable(package="keras_aeos")
class Nesterov(HeavyBall):
    """Gradient descent with Nesterov momentum.

    The buffer is that of `HeavyBall`; the step looks ahead, ``x⁺ = x - η(β₁m⁺ + g)``, or
    ``x - η(β₁m⁺ + (1-β₁)g)`` if `ema`, with ``P = I``. The stability threshold is
    ``(2+2β₁)/((1+2β₁)η)``, or ``(2+2β₁)/((1-β₁)(1+2β₁)η)`` if `ema`.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.01 by default.
        beta_1: Float in [0, 1). Momentum coefficient β₁, 0.9 by default. Keras' name `momentum` is
            accepted.
        ema: Boolean. Whether the buffer is an exponential moving average; False (default) for the
            standard form.
        name: String. Name of the optimizer, "nesterov" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Table 1 and Appendix A.
    """

    not_supported: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        beta_1: float = 0.9,
        ema: bool = False,
        name: str = "nesterov",
        **kwargs: Any,
    ) -> None:
        if not kwargs.pop("nesterov", True):
            raise ValueError(
                "Nesterov looks ahead. Use keras_aeos.optimizers.HeavyBall if that is not wanted. "
                "Received: nesterov=False"
            )
        super().__init__(learning_rate=learning_rate, beta_1=beta_1, ema=ema, name=name, **kwargs)

    def momentum(self) -> Momentum:
        """Nesterov."""
        return Momentum.nesterov(self.beta_1, self.ema)
