"""The table that drives every optimizer test: constructors, thresholds and updates in NumPy."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_aeos.optimizers as ours

RATE, DECAY = 0.05, 0.1
SCHEDULE = {"decay_steps": 7, "decay_rate": 0.5}
# Shapes of the variables that the optimizers are tried on.
SHAPES = [(3, 4), (5,), (), (2, 3, 4)]
# So small that its place does not matter.
TINY = 1e-14
_GENERATOR = np.random.default_rng(4)
# The second moments that FrozenAdam is given.
FROZEN = [_GENERATOR.uniform(0.1, 2.0, shape) for shape in SHAPES]


def schedule(rate):
    """A learning rate that falls from step to step."""
    return keras.optimizers.schedules.ExponentialDecay(rate, **SCHEDULE)


@dataclasses.dataclass(frozen=True)
class OptimizerCase:
    """An optimizer and what it claims.

    Attributes:
        make: Constructor taking the learning rate and base arguments.
        threshold: λ*·η without weight decay.
        in_numpy: The update from its paper, without P: takes one variable's start and gradients
            and returns its end, at the learning rate `RATE`. None for the optimizers of Keras.
        buffer: What the momentum buffer takes up: "gradients"; "preconditioned" ones; or "steps",
            which have been multiplied by the learning rate too.
        twin: The row of the Keras optimizer that makes the same path; None if there is none.
    """

    make: Callable
    threshold: float
    in_numpy: Any = None
    buffer: str = "gradients"
    twin: str | None = None


def _with(make, **settings):
    return functools.partial(make, **settings)


def _frozen_adam(rate, **settings):
    return ours.FrozenAdam(rate, FROZEN, **settings)


def root_mean_square(x):
    return np.sqrt(np.mean(x**2))


# Each takes one variable's start and gradients and returns its end; from the papers, without P.


def gradient_descent(x, gradients):
    for g in gradients:
        x = x - RATE * g
    return x


def heavy_ball(x, gradients, ema=False):
    m = 0.0
    for g in gradients:
        m = 0.9 * m + (0.1 if ema else 1.0) * g
        x = x - RATE * m
    return x


def nesterov(x, gradients, ema=False):
    m = 0.0
    for g in gradients:
        g = (0.1 if ema else 1.0) * g
        m = 0.9 * m + g
        x = x - RATE * (0.9 * m + g)
    return x


def rmsprop(x, gradients, beta=0.9, epsilon=0.0):
    nu = 0.0
    for g in gradients:
        nu = beta * nu + (1 - beta) * g**2
        x = x - RATE * g / (np.sqrt(nu) + epsilon)
    return x


def adagrad(x, gradients):
    nu = 0.0
    for g in gradients:
        nu = nu + g**2
        x = x - RATE * g / np.sqrt(nu)
    return x


def adam(x, gradients, beta_1=0.9, beta_2=0.999, epsilon=0.0, corrected=True, decay=0.0, power=0.5):
    m = nu = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta_1 * m + (1 - beta_1) * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        m_hat, nu_hat = m, nu
        if corrected:
            m_hat, nu_hat = m / (1 - beta_1**t), nu / (1 - beta_2**t)
        x = x - RATE * decay * x - RATE * m_hat / (nu_hat**power + epsilon)
    return x


def amsgrad(x, gradients, beta_2=0.999, epsilon=0.0, corrected=True):
    m = nu = largest = 0.0
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        largest = np.maximum(largest, nu)
        m_hat, nu_hat = (m / (1 - 0.9**t), largest / (1 - beta_2**t)) if corrected else (m, largest)
        x = x - RATE * m_hat / (np.sqrt(nu_hat) + epsilon)
    return x


def nadam(x, gradients, corrected=True):
    m = nu = 0.0
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        nu = 0.999 * nu + 0.001 * g**2
        look_ahead, nu_hat = 0.9 * m + 0.1 * g, nu
        if corrected:
            look_ahead, nu_hat = look_ahead / (1 - 0.9**t), nu / (1 - 0.999**t)
        x = x - RATE * look_ahead / (np.sqrt(nu_hat) + 1e-7)
    return x


def adafactor(x, gradients, beta=0.9, clip=np.inf, scaled=False):
    m = nu = rows = columns = 0.0
    for t, g in enumerate(gradients, 1):
        new = t**-0.8
        if g.ndim < 2:
            nu = (1 - new) * nu + new * g**2
        else:
            rows = (1 - new) * rows + new * (g**2).mean(-1)
            columns = (1 - new) * columns + new * (g**2).mean(-2)
            nu = np.einsum("...r,...c->...rc", rows, columns) / rows.mean(-1)[..., None, None]
        u = g / np.sqrt(nu)
        u = u / max(1.0, root_mean_square(u) / clip)
        u = u * max(1e-3, root_mean_square(x)) if scaled else u
        m = beta * m + (1 - beta) * u
        x = x - RATE * m
    return x


def frozen_adam(x, gradients):
    nu = dict(zip([np.shape(moment) for moment in FROZEN], FROZEN, strict=True))[x.shape]
    return x - sum(
        RATE * (1 - 0.9 ** (len(gradients) - i)) * g for i, g in enumerate(gradients)
    ) / (np.sqrt(nu) + 1e-7)


CUSTOM_OPTIMIZERS = {
    "gradient_descent": OptimizerCase(
        ours.GradientDescent, 2.0, gradient_descent, twin="keras_sgd"
    ),
    "heavy_ball": OptimizerCase(ours.HeavyBall, 3.8, heavy_ball, twin="keras_sgd_momentum"),
    "heavy_ball_ema": OptimizerCase(
        _with(ours.HeavyBall, ema=True), 38.0, _with(heavy_ball, ema=True)
    ),
    "nesterov": OptimizerCase(ours.Nesterov, 3.8 / 2.8, nesterov, twin="keras_sgd_nesterov"),
    "nesterov_ema": OptimizerCase(
        _with(ours.Nesterov, ema=True), 38.0 / 2.8, _with(nesterov, ema=True)
    ),
    "rmsprop": OptimizerCase(
        _with(ours.RMSprop, beta_2=0.9, epsilon=TINY), 2.0, rmsprop, twin="keras_rmsprop_tiny"
    ),
    "rmsprop_epsilon": OptimizerCase(
        _with(ours.RMSprop, epsilon=1e-2), 2.0, _with(rmsprop, beta=0.995, epsilon=1e-2)
    ),
    "adagrad": OptimizerCase(
        _with(ours.Adagrad, epsilon=TINY), 2.0, adagrad, twin="keras_adagrad_tiny"
    ),
    "adam": OptimizerCase(_with(ours.Adam, epsilon=TINY), 38.0, adam, twin="keras_adam_tiny"),
    "adam_epsilon": OptimizerCase(
        _with(ours.Adam, beta_1=0.5, beta_2=0.9, epsilon=1e-2),
        6.0,
        _with(adam, beta_1=0.5, beta_2=0.9, epsilon=1e-2),
    ),
    "adam_plain": OptimizerCase(
        _with(ours.Adam, bias_correction=False), 38.0, _with(adam, epsilon=1e-7, corrected=False)
    ),
    "adamw": OptimizerCase(
        _with(ours.AdamW, epsilon=TINY), 38.0, _with(adam, decay=0.004), twin="keras_adamw_tiny"
    ),
    "amsgrad": OptimizerCase(
        _with(ours.AMSGrad, epsilon=TINY), 38.0, amsgrad, twin="keras_amsgrad_tiny"
    ),
    "amsgrad_plain": OptimizerCase(
        _with(ours.AMSGrad, beta_2=0.9, bias_correction=False),
        38.0,
        _with(amsgrad, beta_2=0.9, epsilon=1e-7, corrected=False),
    ),
    "padam": OptimizerCase(
        _with(ours.Padam, exponent=0.4, epsilon=1e-2), 38.0, _with(adam, power=0.4, epsilon=1e-2)
    ),
    "padam_plain": OptimizerCase(
        _with(ours.Padam, bias_correction=False),
        38.0,
        _with(adam, power=0.25, epsilon=1e-7, corrected=False),
    ),
    "nadam": OptimizerCase(ours.Nadam, 38.0 / 2.8, nadam),
    "nadam_plain": OptimizerCase(
        _with(ours.Nadam, bias_correction=False), 38.0 / 2.8, _with(nadam, corrected=False)
    ),
    "adafactor": OptimizerCase(ours.Adafactor, 38.0, adafactor, buffer="preconditioned"),
    "adafactor_scaled": OptimizerCase(
        _with(ours.Adafactor, beta_1=0.0, clip_threshold=1.0, parameter_scaling=True),
        2.0,
        _with(adafactor, beta=0.0, clip=1.0, scaled=True),
        buffer="preconditioned",
        twin="keras_adafactor",
    ),
    "frozen_adam": OptimizerCase(_frozen_adam, 38.0, frozen_adam),
}
KERAS_OPTIMIZERS = {
    "keras_sgd": OptimizerCase(keras.optimizers.SGD, 2.0),
    "keras_sgd_momentum": OptimizerCase(
        _with(keras.optimizers.SGD, momentum=0.9), 3.8, buffer="steps"
    ),
    "keras_sgd_nesterov": OptimizerCase(
        _with(keras.optimizers.SGD, momentum=0.9, nesterov=True), 3.8 / 2.8, buffer="steps"
    ),
    "keras_rmsprop": OptimizerCase(keras.optimizers.RMSprop, 2.0),
    "keras_rmsprop_tiny": OptimizerCase(_with(keras.optimizers.RMSprop, epsilon=TINY), 2.0),
    "keras_rmsprop_momentum": OptimizerCase(
        _with(keras.optimizers.RMSprop, momentum=0.9, centered=True, epsilon=1e-2),
        3.8,
        buffer="steps",
    ),
    "keras_adagrad": OptimizerCase(_with(keras.optimizers.Adagrad, epsilon=1e-2), 2.0),
    "keras_adagrad_tiny": OptimizerCase(
        _with(keras.optimizers.Adagrad, initial_accumulator_value=0.0, epsilon=TINY), 2.0
    ),
    "keras_adam": OptimizerCase(_with(keras.optimizers.Adam, epsilon=1e-2), 38.0),
    "keras_adam_tiny": OptimizerCase(_with(keras.optimizers.Adam, epsilon=TINY), 38.0),
    "keras_amsgrad": OptimizerCase(_with(keras.optimizers.Adam, amsgrad=True), 38.0),
    "keras_amsgrad_tiny": OptimizerCase(
        _with(keras.optimizers.Adam, amsgrad=True, epsilon=TINY), 38.0
    ),
    "keras_adamw": OptimizerCase(keras.optimizers.AdamW, 38.0),
    "keras_adamw_tiny": OptimizerCase(_with(keras.optimizers.AdamW, epsilon=TINY), 38.0),
    "keras_adamax": OptimizerCase(_with(keras.optimizers.Adamax, epsilon=1e-2), 38.0),
    "keras_lamb": OptimizerCase(_with(keras.optimizers.Lamb, epsilon=1e-2), 38.0),
}
# Their momentum changes from step to step, so that there is no one threshold.
SCHEDULED_MOMENTUM = {
    "keras_nadam": OptimizerCase(_with(keras.optimizers.Nadam, epsilon=1e-2), np.nan),
}
# P is known up to a detail that they don't keep.
APPROXIMATE = {
    "keras_adadelta": OptimizerCase(keras.optimizers.Adadelta, 2.0),
    "keras_adafactor": OptimizerCase(_with(keras.optimizers.Adafactor, relative_step=False), 2.0),
}
OPTIMIZERS = CUSTOM_OPTIMIZERS | KERAS_OPTIMIZERS
