"""Adafactor: a second moment kept as the means of its rows and columns."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from keras_aeos import constraints
from keras_aeos.optimizers.base import LearningRate, PreconditionedOptimizer, slot_dtype
from keras_aeos.stability import Momentum


@keras.saving.register_keras_serializable(package="keras_aeos")
class Adafactor(PreconditionedOptimizer):
    """Adafactor with momentum on the preconditioned gradient.

    With ``β₂ₜ = 1 - t^-d``, a variable of rank 2 or more keeps the means over its last two axes,

        r⁺ = β₂ₜr + (1-β₂ₜ) mean_col(g² + ε),   c⁺ = β₂ₜc + (1-β₂ₜ) mean_row(g² + ε),
        ν̂ = r⁺ c⁺ᵀ / mean(r⁺),

    any other one keeps ``ν̂ = β₂ₜν̂ + (1-β₂ₜ)(g² + ε)``. Then

        P = s √ν̂,   m⁺ = β₁m + (1-β₁) P⁻¹g,   x⁺ = x - η m⁺,

    where s = 1, times ``max(1, rms(g/√ν̂)/c)`` with update clipping at c, divided by
    ``max(10⁻³, rms(x))`` with parameter scaling. The stability threshold is ``(2+2β₁)/((1-β₁)η)``.

    Where all gradients have been zero, as in the embedding of a token that no batch has held, P is
    about √ε. If the examples of a measurement hold the token, λ₁(P⁻¹H) is enormous there, true to
    the definition and of no use.

    Differs from `keras.optimizers.Adafactor`, which has no momentum and always clips and scales.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        beta_1: Float in [0, 1). Decay β₁ of the averaged preconditioned gradient, 0.9 by default.
        decay_exponent: Positive float. Exponent d of ``β₂ₜ``, 0.8 by default.
        epsilon: Float of at least 0. Constant ε added to the squared gradient, 1e-30 by default.
        clip_threshold: Positive float or None. Largest root mean square c of ``g/√ν̂``; None
            (default) for no clipping.
        parameter_scaling: Boolean. Whether a step is proportional to the variable's root mean
            square, False by default.
        name: String. Name of the optimizer, "adafactor" by default.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`; empty if β₁ = 0.
        second_moments: List of ν̂, likewise; for a factored variable the pair (r, c) of shapes
            ``shape[:-1]`` and ``shape[:-2] + shape[-1:]``.

    References:
        Shazeer & Stern 2018; Cohen et al. 2022, Figure 5.
    """

    momentum_of_preconditioned = True

    not_supported: ClassVar[dict[str, str]] = {
        "beta_2_decay": "Its negative is `decay_exponent` here.",
        "epsilon_1": "It is `epsilon` here.",
        "epsilon_2": "With `parameter_scaling` it is 1e-3 here.",
        "relative_step": "Give `learning_rate` a schedule instead.",
    }

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        decay_exponent: float = 0.8,
        epsilon: float = 1e-30,
        clip_threshold: float | None = None,
        parameter_scaling: bool = False,
        name: str = "adafactor",
        **kwargs: Any,
    ) -> None:
        constraints.check(
            beta_1=beta_1,
            decay_exponent=decay_exponent,
            epsilon=epsilon,
            clip_threshold=clip_threshold,
            parameter_scaling=parameter_scaling,
        )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.decay_exponent = decay_exponent
        self.epsilon = epsilon
        self.clip_threshold = clip_threshold
        self.parameter_scaling = parameter_scaling

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create m and ν̂, zero, for each variable, and the scalar s if it can differ from 1."""
        if self.built:
            return
        super().build(variables)
        self.second_moments = [self._add_moment(v) for v in variables]
        self.scales = []
        if self.clip_threshold is not None or self.parameter_scaling:
            self.scales = [
                self.add_variable(shape=(), initializer="ones", dtype=slot_dtype(v), name="scale")
                for v in variables
            ]

    def momentum(self) -> Momentum:
        """Heavy ball on an exponential moving average."""
        return Momentum.heavy_ball(self.beta_1, ema=True)

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """``r⁺`` and ``c⁺``, or ``ν̂⁺``; then s."""
        dtype = gradient.dtype
        step = ops.cast(self.iterations + 1, dtype)
        rate = self.unfrozen(dtype) * ops.power(step, -self.decay_exponent)
        square = ops.add(ops.square(gradient), self.epsilon)
        moment = self.second_moments[index]
        if isinstance(moment, tuple):
            for average, axis in zip(moment, (-1, -2), strict=True):
                self.exponential_average(average, rate, ops.mean(square, axis=axis))
        else:
            self.exponential_average(moment, rate, square)
        if self.scales:
            scale = self.scales[index]
            new = self._new_scale(index, gradient, variable)
            self.assign(scale, ops.where(ops.equal(self.frozen_at, 0), new, scale))

    def root(self, index: int, step: tf.Tensor | None) -> tf.Tensor:
        """``√ν̂``."""
        moment = self.second_moments[index]
        if not isinstance(moment, tuple):
            return ops.sqrt(moment)
        row, column = moment
        row = ops.divide(row, ops.mean(row, axis=-1, keepdims=True))
        # Roots of the factors, not of the product: one pass over the matrix less.
        return ops.multiply(
            ops.expand_dims(ops.sqrt(row), -1), ops.expand_dims(ops.sqrt(column), -2)
        )

    def scale(self, index: int, step: tf.Tensor) -> tf.Tensor | float:
        """S of the last update."""
        return ops.convert_to_tensor(self.scales[index]) if self.scales else 1.0

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "decay_exponent": self.decay_exponent,
            "epsilon": self.epsilon,
            "clip_threshold": self.clip_threshold,
            "parameter_scaling": self.parameter_scaling,
        }

    def _add_moment(self, variable: keras.Variable) -> keras.Variable | tuple[keras.Variable, ...]:
        shape = tuple(variable.shape)
        if len(shape) < 2:
            return self.add_slot(variable, "second_moment")
        return tuple(
            self.add_variable(shape=part, dtype=slot_dtype(variable), name=name)
            for part, name in (
                (shape[:-1], "row_moment"),
                (shape[:-2] + shape[-1:], "column_moment"),
            )
        )

    def _new_scale(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        scale = ops.ones((), gradient.dtype)
        if self.clip_threshold is not None:
            update = _root_mean_square(ops.divide(gradient, self.root(index, None)))
            scale = ops.maximum(scale, ops.divide(update, self.clip_threshold))
        if self.parameter_scaling:
            size = _root_mean_square(ops.cast(variable, gradient.dtype))
            scale = ops.divide(scale, ops.maximum(1e-3, size))
        return scale


def _root_mean_square(tensor: tf.Tensor) -> tf.Tensor:
    return ops.sqrt(ops.mean(ops.square(tensor)))
