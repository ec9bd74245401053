"""Adam, with and without bias correction."""

import keras
from keras import ops

from keras_aeos.optimizers.base import exponential_average
from keras_aeos.optimizers.rmsprop import RMSprop
from keras_aeos.stability import Momentum


@keras.saving.register_keras_serializable(package="keras_aeos")
class Adam(RMSprop):
    """Adam: RMSprop's second moment and an exponentially averaged gradient.

    ``m⁺ = β₁m + (1-β₁)g``, ``ν⁺ = β₂ν + (1-β₂)g²``, ``x⁺ = x - η P⁻¹ m⁺`` with

    - ``P = √ν⁺ + ε`` without bias correction,
    - ``P = (1-β₁ᵗ)(√(ν⁺/(1-β₂ᵗ)) + ε)`` with it, t counting updates from 1.

    The stability threshold is ``(2+2β₁)/((1-β₁)η)``, that is 38/η for β₁ = 0.9.

    Differs from `keras.optimizers.Adam` by the option to leave bias correction out and by the
    place of ε, which is added to the corrected root as in the original algorithm.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay β₁ of the averaged gradient.
        beta_2: Decay β₂ of the second moment.
        epsilon: Constant ε added to the root.
        bias_correction: Whether to correct both averages for their start at zero.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Cohen et al. 2022, Section 2, Equation 2 (the correction of both moments is part of P).
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        bias_correction=True,
        name="adam",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate, beta_2=beta_2, epsilon=epsilon, name=name, **kwargs
        )
        self.beta_1 = beta_1
        self.bias_correction = bias_correction

    def build(self, variables):
        """Create m and ν, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.first_moments = self.add_slots(variables, "first_moment")

    def momentum_kind(self):
        """Heavy ball on an exponential moving average."""
        return Momentum("heavy_ball", self.beta_1, ema=True)

    def momentum_term(self, index, gradient):
        """``m⁺ = β₁m + (1-β₁)g``."""
        exponential_average(self, self.first_moments[index], self.beta_1, gradient)
        return self.first_moments[index]

    def diagonal(self, index, step):
        """P, bias correction included."""
        root = ops.sqrt(self.second_moments[index])
        if not self.bias_correction:
            return ops.add(root, self.epsilon)
        correction_1 = 1.0 - ops.power(ops.cast(self.beta_1, root.dtype), step)
        correction_2 = ops.sqrt(1.0 - ops.power(ops.cast(self.beta_2, root.dtype), step))
        return ops.add(ops.multiply(root, correction_1 / correction_2), correction_1 * self.epsilon)

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "bias_correction": self.bias_correction,
        }
