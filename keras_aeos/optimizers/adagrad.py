"""Adagrad: gradient descent preconditioned by the root of the summed squares."""

import keras
from keras import ops

from keras_aeos.optimizers.base import PreconditionedOptimizer


@keras.saving.register_keras_serializable(package="keras_aeos")
class Adagrad(PreconditionedOptimizer):
    """Adagrad without momentum.

    ``ν⁺ = ν + g²``, ``P = √ν⁺ + ε``, ``x⁺ = x - η P⁻¹ g``; stability threshold ``2/η``.

    Differs from `keras.optimizers.Adagrad`, which starts ν at 0.1 and puts ε inside the root.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        epsilon: Constant ε added to the root.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Attributes:
        second_moments: List of ν, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Duchi et al. 2011; Cohen et al. 2022, Figure 5.
    """

    def __init__(self, learning_rate=0.01, epsilon=1e-7, name="adagrad", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.epsilon = epsilon

    def build(self, variables):
        """Create ν, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = self.add_slots("second_moment")

    def accumulate(self, index, gradient, variable):
        """``ν⁺ = ν + g²``."""
        ops.cond(
            ops.equal(self.frozen_at, 0),
            lambda: self.assign_add(self.second_moments[index], ops.square(gradient)),
            lambda: None,
        )

    def root(self, index, step):
        """``√ν + ε``."""
        return ops.add(ops.sqrt(self.second_moments[index]), self.epsilon)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}
