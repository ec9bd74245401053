"""Adam and the optimizers that change one thing in it: AdamW, AMSGrad, Padam, Nadam."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from keras_aeos import constraints
from keras_aeos.optimizers.base import LearningRate, corrected_decay
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
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.999 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        bias_correction: Boolean. Whether to correct both averages for their start at zero, True
            by default.
        name: String. Name of the optimizer, "adam" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Cohen et al. 2022, Section 2, Equation 2 (the correction of both moments is part of P).
    """

    # P is made of ν to this power.
    exponent = 0.5

    not_supported: ClassVar[dict[str, str]] = {
        "amsgrad": "Use keras_aeos.optimizers.AMSGrad.",
        "rho": "It is an argument of RMSprop; here the decay of the second moment is `beta_2`.",
    }

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        bias_correction: bool = True,
        name: str = "adam",
        **kwargs: Any,
    ) -> None:
        constraints.check(beta_1=beta_1, bias_correction=bias_correction)
        super().__init__(
            learning_rate=learning_rate, beta_2=beta_2, epsilon=epsilon, name=name, **kwargs
        )
        self.beta_1 = beta_1
        self.bias_correction = bias_correction

    def momentum(self) -> Momentum:
        """Heavy ball on an exponential moving average."""
        return Momentum.heavy_ball(self.beta_1, ema=True)

    def scale(self, index: int, step: tf.Tensor) -> tf.Tensor | float:
        """``(1-β₁ᵗ)/(1-β₂ᵗ)^p`` with bias correction; p = 1/2 for Adam."""
        if not self.bias_correction:
            return 1.0
        dtype = self.second_moments[index].dtype
        return corrected_decay(self.beta_1, step, dtype) / self._root_correction(step, dtype)

    def root(self, index: int, step: tf.Tensor) -> tf.Tensor:
        """``ν^p + (1-β₂ᵗ)^p ε`` with bias correction, ``ν^p + ε`` without."""
        moment = self.rooted_moments()[index]
        epsilon = self.epsilon
        if self.bias_correction:
            epsilon = self._root_correction(step, moment.dtype) * epsilon
        power = ops.sqrt(moment) if self.exponent == 0.5 else ops.power(moment, self.exponent)
        return ops.add(power, epsilon)

    def rooted_moments(self) -> list[keras.Variable]:
        """The slots that the root is taken of: ν itself."""
        return self.second_moments

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "bias_correction": self.bias_correction,
        }

    def _root_correction(self, step: tf.Tensor, dtype: Any) -> tf.Tensor:
        return ops.power(corrected_decay(self.beta_2, step, dtype), self.exponent)


@keras.saving.register_keras_serializable(package="keras_aeos")
class AdamW(Adam):
    """Adam with decoupled weight decay: ``x⁺ = (1 - ηw) x - η P⁻¹ m⁺``.

    The stability threshold is ``(1+β₁)(2-ηw)/((1-β₁)η)``. Variables can be left out of the decay
    with `exclude_from_weight_decay`, before `build`.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        weight_decay: Float of at least 0. Weight decay w, 0.004 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.999 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        bias_correction: Boolean. Whether to correct both averages for their start at zero, True
            by default.
        name: String. Name of the optimizer, "adamw" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range, or `weight_decay` is None.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Loshchilov & Hutter 2019; Cohen et al. 2022, Figure 5 (the threshold with weight decay is
        beyond the paper).
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        bias_correction: bool = True,
        name: str = "adamw",
        **kwargs: Any,
    ) -> None:
        if weight_decay is None:
            raise ValueError(
                "AdamW is Adam with weight decay; expected a number. For none use "
                "keras_aeos.optimizers.Adam. Received: weight_decay=None"
            )
        constraints.check(weight_decay=weight_decay)
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            bias_correction=bias_correction,
            name=name,
            weight_decay=weight_decay,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_aeos")
class AMSGrad(Adam):
    """Adam on the running maximum of the second moment.

    ``ν̄⁺ = max(ν̄, ν⁺)`` with Adam's ν⁺, and ``P = √ν̄⁺ + ε``. The stability threshold is that of
    Adam.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.999 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        bias_correction: Boolean. Whether to correct both averages for their start at zero, True
            by default.
        name: String. Name of the optimizer, "amsgrad" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.
        maximum_second_moments: List of ν̄, likewise.

    References:
        Reddi et al. 2018; Cohen et al. 2022, Figure 5.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        bias_correction: bool = True,
        name: str = "amsgrad",
        **kwargs: Any,
    ) -> None:
        if not kwargs.pop("amsgrad", True):
            raise ValueError(
                "AMSGrad takes the maximum of the second moment. Use keras_aeos.optimizers.Adam "
                "if it is not wanted. Received: amsgrad=False"
            )
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            bias_correction=bias_correction,
            name=name,
            **kwargs,
        )

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create m, ν and ν̄, zero, for each variable."""
        if self.built:
            return
        super().build(variables)
        self.maximum_second_moments = self.add_slots("maximum_second_moment")

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """``ν⁺`` as in Adam, then ``ν̄⁺ = max(ν̄, ν⁺)``."""
        super().accumulate(index, gradient, variable)
        maximum = self.maximum_second_moments[index]
        self.assign(maximum, ops.maximum(maximum, self.second_moments[index]))

    def rooted_moments(self) -> list[keras.Variable]:
        """The running maxima ν̄."""
        return self.maximum_second_moments


@keras.saving.register_keras_serializable(package="keras_aeos")
class Padam(Adam):
    """Partially adaptive Adam: ``P = ν^p + ε`` with an exponent p between 0 and 1/2.

    p = 1/2 is Adam; p = 0 is an EMA heavy ball. The stability threshold is that of Adam.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.1 by default.
        exponent: Float in [0, 0.5]. Power p of the second moment, 0.25 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.999 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        bias_correction: Boolean. Whether to correct both averages for their start at zero, True
            by default.
        name: String. Name of the optimizer, "padam" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Chen et al. 2018; Cohen et al. 2022, Figure 5.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        exponent: float = 0.25,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        bias_correction: bool = True,
        name: str = "padam",
        **kwargs: Any,
    ) -> None:
        constraints.check(exponent=exponent)
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            bias_correction=bias_correction,
            name=name,
            **kwargs,
        )
        self.exponent = exponent

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "exponent": self.exponent}


@keras.saving.register_keras_serializable(package="keras_aeos")
class Nadam(Adam):
    """Adam with Nesterov momentum: ``x⁺ = x - η P⁻¹ (β₁m⁺ + (1-β₁)g)``.

    m, ν and P are those of Adam. The stability threshold is ``(2+2β₁)/((1-β₁)(1+2β₁)η)``, that is
    13.57/η for β₁ = 0.9.

    Differs from `keras.optimizers.Nadam`, whose momentum coefficient follows a schedule.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        beta_2: Float in [0, 1). Decay β₂ of the second moment, 0.999 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        bias_correction: Boolean. Whether to correct both averages for their start at zero, True
            by default.
        name: String. Name of the optimizer, "nadam" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Dozat 2016; Cohen et al. 2022, Table 1 and Figure 5.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        bias_correction: bool = True,
        name: str = "nadam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            bias_correction=bias_correction,
            name=name,
            **kwargs,
        )

    def momentum(self) -> Momentum:
        """Nesterov on an exponential moving average."""
        return Momentum.nesterov(self.beta_1, ema=True)
