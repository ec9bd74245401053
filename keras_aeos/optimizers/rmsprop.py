"""RMSprop: gradient descent preconditioned by a running root mean square."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from keras_aeos import constraints
from keras_aeos.optimizers.base import (
    LearningRate,
    PreconditionedOptimizer,
    check_supported,
    keras_spelling,
)


@keras.saving.register_keras_serializable(package="keras_aeos")
class RMSprop(PreconditionedOptimizer):
    """RMSprop without momentum.

    ``ν⁺ = β₂ν + (1-β₂)g²``, ``P = √ν⁺ + ε``, ``x⁺ = x - η P⁻¹ g``; stability threshold ``2/η``.

    Differs from `keras.optimizers.RMSprop`, which puts ε inside the root.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.995 by default. Keras' name `rho`
            is accepted.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        name: String. Name of the optimizer, "rmsprop" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        second_moments: List of ν, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Section 2 and Figure 5.
    """

    not_supported: ClassVar[dict[str, str]] = {
        "momentum": "Use keras.optimizers.RMSprop, which the monitor measures as well.",
        "centered": "Use keras.optimizers.RMSprop, which the monitor measures as well.",
    }

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2: float = 0.995,
        epsilon: float = 1e-7,
        name: str = "rmsprop",
        **kwargs: Any,
    ) -> None:
        check_supported(kwargs, self.not_supported, type(self).__name__)
        beta_2 = keras_spelling(kwargs, "rho", "beta_2", beta_2, default=0.995)
        constraints.check(beta_2=beta_2, epsilon=epsilon)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create ν, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = self.add_second_moments()

    def add_second_moments(self) -> list[keras.Variable]:
        """ν, zero."""
        return self.add_slots("second_moment")

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """``ν⁺ = β₂ν + (1-β₂)g²``."""
        rate = self.unfrozen(gradient.dtype) * (1.0 - self.beta_2)
        self.exponential_average(self.second_moments[index], rate, ops.square(gradient))

    def root(self, index: int, step: tf.Tensor) -> tf.Tensor:
        """``√ν + ε``."""
        return ops.add(ops.sqrt(self.second_moments[index]), self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "beta_2": self.beta_2, "epsilon": self.epsilon}
