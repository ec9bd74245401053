"""RMSprop: gradient descent preconditioned by a running root mean square."""

import keras
from keras import ops

from keras_aeos.optimizers.base import PreconditionedOptimizer


@keras.saving.register_keras_serializable(package="keras_aeos")
class RMSprop(PreconditionedOptimizer):
    """RMSprop without momentum.

    ``ν⁺ = β₂ν + (1-β₂)g²``, ``P = √ν⁺ + ε``, ``x⁺ = x - η P⁻¹ g``; stability threshold ``2/η``.

    Differs from `keras.optimizers.RMSprop`, which puts ε inside the root.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        beta_2: Decay β₂ of the second moment.
        epsilon: Constant ε added to the root.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Attributes:
        second_moments: List of ν, one per variable, of the variable's shape and dtype; available
            after `build`.

    References:
        Cohen et al. 2022, Section 2 and Figure 5.
    """

    def __init__(self, learning_rate=0.001, beta_2=0.995, epsilon=1e-7, name="rmsprop", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        """Create ν, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = self.add_second_moments()

    def add_second_moments(self):
        """ν, zero."""
        return self.add_slots("second_moment")

    def accumulate(self, index, gradient, variable):
        """``ν⁺ = β₂ν + (1-β₂)g²``."""
        rate = self.unfrozen(gradient.dtype) * (1.0 - self.beta_2)
        self.exponential_average(self.second_moments[index], rate, ops.square(gradient))

    def root(self, index, step):
        """``√ν + ε``."""
        return ops.add(ops.sqrt(self.second_moments[index]), self.epsilon)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "beta_2": self.beta_2, "epsilon": self.epsilon}
