"""The `optimizer` sections: one class an optimizer, and one row in `OPTIMIZERS`."""

from dataclasses import dataclass

from omegaconf import MISSING

from trainers.schema.conditions import Condition, above_zero, at_least, fraction, one_of, setting

AFTER_WARM_UP = ("constant", "inverse_square_root")


@dataclass
class Optimizer:
    """Base of every optimizer section; the other keys are the optimizer's own arguments."""

    name: str = MISSING
    learning_rate: float = above_zero(MISSING)


@dataclass
class Schedule:
    """How the learning rate depends on the number t of updates, counted from 1.

    It rises linearly, as ``learning_rate t / warmup_steps``, and after `warmup_steps` updates is
    constant or falls as ``learning_rate √(warmup_steps / t)``.
    """

    warmup_steps: int = at_least(0, 0)
    after: str = one_of(AFTER_WARM_UP, "constant")


@dataclass
class GradientDescent(Optimizer):
    """Arguments of `keras_aeos.optimizers.GradientDescent`."""

    name: str = one_of(("gradient_descent",), "gradient_descent")
    learning_rate: float = above_zero(0.05)


@dataclass
class HeavyBall(Optimizer):
    """Arguments of `keras_aeos.optimizers.HeavyBall`."""

    name: str = one_of(("heavy_ball",), "heavy_ball")
    learning_rate: float = above_zero(0.005)
    beta_1: float = fraction(0.9)
    ema: bool = False


@dataclass
class Nesterov(HeavyBall):
    """Arguments of `keras_aeos.optimizers.Nesterov`."""

    name: str = one_of(("nesterov",), "nesterov")


@dataclass
class RMSprop(Optimizer):
    """Arguments of `keras_aeos.optimizers.RMSprop`."""

    name: str = one_of(("rmsprop",), "rmsprop")
    learning_rate: float = above_zero(1e-4)
    beta_2: float = fraction(0.995)
    epsilon: float = above_zero(1e-7)


@dataclass
class Adagrad(Optimizer):
    """Arguments of `keras_aeos.optimizers.Adagrad`."""

    name: str = one_of(("adagrad",), "adagrad")
    learning_rate: float = above_zero(0.01)
    epsilon: float = above_zero(1e-7)


@dataclass
class Adam(Optimizer):
    """Arguments of `keras_aeos.optimizers.Adam`."""

    name: str = one_of(("adam",), "adam")
    learning_rate: float = above_zero(1e-4)
    beta_1: float = fraction(0.9)
    beta_2: float = fraction(0.999)
    epsilon: float = above_zero(1e-7)
    bias_correction: bool = True


@dataclass
class AdamW(Adam):
    """Arguments of `keras_aeos.optimizers.AdamW`."""

    name: str = one_of(("adamw",), "adamw")
    weight_decay: float = above_zero(0.004)


@dataclass
class AMSGrad(Adam):
    """Arguments of `keras_aeos.optimizers.AMSGrad`."""

    name: str = one_of(("amsgrad",), "amsgrad")
    bias_correction: bool = False


@dataclass
class Padam(Adam):
    """Arguments of `keras_aeos.optimizers.Padam`."""

    name: str = one_of(("padam",), "padam")
    learning_rate: float = above_zero(1e-2)
    exponent: float = setting(0.25, Condition("0 <= value <= 0.5", lambda value: 0 <= value <= 0.5))
    bias_correction: bool = False


@dataclass
class Nadam(Adam):
    """Arguments of `keras_aeos.optimizers.Nadam`."""

    name: str = one_of(("nadam",), "nadam")
    bias_correction: bool = False


@dataclass
class Adafactor(Optimizer):
    """Arguments of `keras_aeos.optimizers.Adafactor`."""

    name: str = one_of(("adafactor",), "adafactor")
    learning_rate: float = above_zero(1e-4)
    beta_1: float = fraction(0.9)
    decay_exponent: float = above_zero(0.8)
    epsilon: float = above_zero(1e-14)
    clip_threshold: float | None = above_zero(None)
    parameter_scaling: bool = False


@dataclass
class FrozenAdam(Optimizer):
    """Arguments of `keras_aeos.optimizers.FrozenAdam`; `second_moments` is a file."""

    name: str = one_of(("frozen_adam",), "frozen_adam")
    learning_rate: float = above_zero(1e-4)
    second_moments: str = MISSING
    beta_1: float = fraction(0.9)
    epsilon: float = above_zero(1e-7)


OPTIMIZERS = {
    "gradient_descent": GradientDescent,
    "heavy_ball": HeavyBall,
    "nesterov": Nesterov,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "amsgrad": AMSGrad,
    "padam": Padam,
    "nadam": Nadam,
    "adafactor": Adafactor,
    "frozen_adam": FrozenAdam,
}
