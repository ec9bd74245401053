"""Adam and the optimizers that change one thing in it: AdamW, AMSGrad, Padam, Nadam."""

import keras
from keras import ops

from keras_aeos.optimizers.base import corrected_decay
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
        beta_1: Decay β₁ of the averaged gradient, in [0, 1).
        beta_2: Decay β₂ of the second moment.
        epsilon: Constant ε added to the root.
        bias_correction: Whether to correct both averages for their start at zero.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If `beta_1` lies outside [0, 1).

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Cohen et al. 2022, Section 2, Equation 2 (the correction of both moments is part of P).
    """

    # P is made of ν to this power.
    exponent = 0.5

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
        self.momentum()  # checks beta_1

    def momentum(self):
        """Heavy ball on an exponential moving average."""
        return Momentum.heavy_ball(self.beta_1, ema=True)

    def scale(self, index, step):
        """``(1-β₁ᵗ)/(1-β₂ᵗ)^p`` with bias correction; p = 1/2 for Adam."""
        if not self.bias_correction:
            return 1.0
        dtype = self.second_moments[index].dtype
        return corrected_decay(self.beta_1, step, dtype) / self._root_correction(step, dtype)

    def root(self, index, step):
        """``ν^p + (1-β₂ᵗ)^p ε`` with bias correction, ``ν^p + ε`` without."""
        moment = self.rooted_moments()[index]
        epsilon = self.epsilon
        if self.bias_correction:
            epsilon = self._root_correction(step, moment.dtype) * epsilon
        power = ops.sqrt(moment) if self.exponent == 0.5 else ops.power(moment, self.exponent)
        return ops.add(power, epsilon)

    def rooted_moments(self):
        """The slots that the root is taken of: ν itself."""
        return self.second_moments

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "bias_correction": self.bias_correction,
        }

    def _root_correction(self, step, dtype):
        return ops.power(corrected_decay(self.beta_2, step, dtype), self.exponent)


@keras.saving.register_keras_serializable(package="keras_aeos")
class AdamW(Adam):
    """Adam with decoupled weight decay: ``x⁺ = (1 - ηw) x - η P⁻¹ m⁺``.

    The stability threshold is ``(1+β₁)(2-ηw)/((1-β₁)η)``. Variables can be left out of the decay
    with `exclude_from_weight_decay`, before `build`.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        weight_decay: Weight decay w, a number.
        name: Name of the optimizer.
        **kwargs: Arguments of `Adam` and base arguments of Keras optimizers.

    Raises:
        ValueError: If `weight_decay` is None.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Loshchilov & Hutter 2019; Cohen et al. 2022, Figure 5 (the threshold with weight decay is
        beyond the paper).
    """

    def __init__(self, learning_rate=0.001, weight_decay=0.004, name="adamw", **kwargs):
        if weight_decay is None:
            raise ValueError(
                "AdamW is Adam with weight decay; expected a number. For none use "
                "keras_aeos.optimizers.Adam. Received: weight_decay=None"
            )
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )


@keras.saving.register_keras_serializable(package="keras_aeos")
class AMSGrad(Adam):
    """Adam on the running maximum of the second moment.

    ``ν̄⁺ = max(ν̄, ν⁺)`` with Adam's ν⁺, and ``P = √ν̄⁺ + ε``. The stability threshold is that of
    Adam.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        bias_correction: As in `Adam`; without by default, as in the paper.
        name: Name of the optimizer.
        **kwargs: Arguments of `Adam` and base arguments of Keras optimizers.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.
        maximum_second_moments: List of ν̄, likewise.

    References:
        Reddi et al. 2018; Cohen et al. 2022, Figure 5.
    """

    def __init__(self, learning_rate=0.001, bias_correction=False, name="amsgrad", **kwargs):
        super().__init__(
            learning_rate=learning_rate, bias_correction=bias_correction, name=name, **kwargs
        )

    def build(self, variables):
        """Create m, ν and ν̄, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.maximum_second_moments = self.add_slots("maximum_second_moment")

    def accumulate(self, index, gradient, variable):
        """``ν⁺`` as in Adam, then ``ν̄⁺ = max(ν̄, ν⁺)``."""
        super().accumulate(index, gradient, variable)
        maximum = self.maximum_second_moments[index]
        self.assign(maximum, ops.maximum(maximum, self.second_moments[index]))

    def rooted_moments(self):
        """The running maxima ν̄."""
        return self.maximum_second_moments


@keras.saving.register_keras_serializable(package="keras_aeos")
class Padam(Adam):
    """Partially adaptive Adam: ``P = ν^p + ε`` with an exponent p between 0 and 1/2.

    p = 1/2 is Adam; p = 0 is an EMA heavy ball. The stability threshold is that of Adam.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        exponent: Power p of the second moment, in [0, 0.5].
        bias_correction: As in `Adam`; without by default, as in the paper.
        name: Name of the optimizer.
        **kwargs: Arguments of `Adam` and base arguments of Keras optimizers.

    Raises:
        ValueError: If `exponent` lies outside [0, 0.5].

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Chen et al. 2018; Cohen et al. 2022, Figure 5.
    """

    def __init__(
        self, learning_rate=0.1, exponent=0.25, bias_correction=False, name="padam", **kwargs
    ):
        super().__init__(
            learning_rate=learning_rate, bias_correction=bias_correction, name=name, **kwargs
        )
        if not 0.0 <= exponent <= 0.5:
            raise ValueError(
                "The exponent of the second moment must lie in [0, 0.5], where 0.5 is Adam. "
                f"Received: exponent={exponent}"
            )
        self.exponent = exponent

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "exponent": self.exponent}


@keras.saving.register_keras_serializable(package="keras_aeos")
class Nadam(Adam):
    """Adam with Nesterov momentum: ``x⁺ = x - η P⁻¹ (β₁m⁺ + (1-β₁)g)``.

    m, ν and P are those of Adam. The stability threshold is ``(2+2β₁)/((1-β₁)(1+2β₁)η)``, that is
    13.57/η for β₁ = 0.9.

    Differs from `keras.optimizers.Nadam`, whose momentum coefficient follows a schedule.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        bias_correction: As in `Adam`; without by default, as in the paper.
        name: Name of the optimizer.
        **kwargs: Arguments of `Adam` and base arguments of Keras optimizers.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Dozat 2016; Cohen et al. 2022, Table 1 and Figure 5.
    """

    def __init__(self, learning_rate=0.001, bias_correction=False, name="nadam", **kwargs):
        super().__init__(
            learning_rate=learning_rate, bias_correction=bias_correction, name=name, **kwargs
        )

    def momentum(self):
        """Nesterov on an exponential moving average."""
        return Momentum.nesterov(self.beta_1, ema=True)
