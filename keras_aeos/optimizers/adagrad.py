"""Adagrad: gradient descent preconditioned by the root of the summed squares."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from keras_aeos import constraints
from keras_aeos.optimizers.base import LearningRate, PreconditionedOptimizer


@keras.saving.register_keras_serializable(package="keras_aeos")
class Adagrad(PreconditionedOptimizer):
    """Adagrad without momentum.

    ``ν⁺ = ν + g²``, ``P = √ν⁺ + ε``, ``x⁺ = x - η P⁻¹ g``; stability threshold ``2/η``.

    Differs from `keras.optimizers.Adagrad`, which starts ν at 0.1 and puts ε inside the root.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.01 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        name: String. Name of the optimizer, "adagrad" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        second_moments: List of ν, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Duchi et al. 2011; Cohen et al. 2022, Figure 5.
    """

    not_supported: ClassVar[dict[str, str]] = {
        "initial_accumulator_value": "The accumulator starts at zero, as in the paper; use "
        "keras.optimizers.Adagrad, which the monitor measures as well."
    }

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        epsilon: float = 1e-7,
        name: str = "adagrad",
        **kwargs: Any,
    ) -> None:
        constraints.check(epsilon=epsilon)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create ν, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = self.add_slots("second_moment")

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """``ν⁺ = ν + g²``."""
        ops.cond(
            ops.equal(self.frozen_at, 0),
            lambda: self.assign_add(self.second_moments[index], ops.square(gradient)),
            lambda: None,
        )

    def root(self, index: int, step: tf.Tensor) -> tf.Tensor:
        """``√ν + ε``."""
        return ops.add(ops.sqrt(self.second_moments[index]), self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}
