"""The whole configuration of a run, as typed dataclasses.

Hydra merges the YAML files and the command line into these classes, so that a misspelt key or a
wrong type is found before anything else is imported. A class here is one section of the file; a
field's `metadata` holds the condition that its value must meet.

A model or an optimizer is one dataclass and one row in `MODELS` or `OPTIMIZERS`.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from trainers.batching import micro_batch_size
from trainers.conditions import Condition, above_zero, at_least, finite, fraction, one_of, setting
from trainers.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set without loading it."""

    num_examples: int
    input_shape: tuple[int, ...]
    num_classes: int


DATASETS = {
    "digits": Dataset(num_examples=1_797, input_shape=(8, 8, 1), num_classes=10),
    "cifar10": Dataset(num_examples=50_000, input_shape=(32, 32, 3), num_classes=10),
}
LOSSES = ("cross_entropy", "squared_error")
ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "softplus")
SOLVERS = ("lanczos", "power")
QUANTITIES = (
    *("sharpness", "gradient_norm_squared", "preconditioner_norm_squared"),
    *("largest_stable_learning_rate", "alignment"),
    *("gradient_curvature", "preconditioned_gradient_curvature"),
    *("update_curvature", "preconditioned_update_curvature"),
    *("batch_sharpness", "preconditioned_batch_sharpness"),
    *("trace", "preconditioned_trace"),
    *("spectral_density", "preconditioned_spectral_density"),
)
DEFAULT_QUANTITIES = QUANTITIES[:4]  # what `AEoSMonitor` measures when not told


@dataclass
class Model:
    """Base of every model section; `name` is the module under `trainers/` that builds it."""

    name: str = MISSING


@dataclass
class FullyConnected(Model):
    """Fully connected network: `hidden_layers` layers of `width` units each."""

    name: str = one_of(("fully_connected",), "fully_connected")
    hidden_layers: int = at_least(0, 5)
    width: int = at_least(1, 200)
    activation: str = one_of(ACTIVATIONS, "tanh")


@dataclass
class Optimizer:
    """Base of every optimizer section; the other keys are the optimizer's own arguments."""

    name: str = MISSING
    learning_rate: float = above_zero(MISSING)


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


MODELS = {"fully_connected": FullyConnected}
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


@dataclass
class Data:
    """Training examples: the first `num_examples` of the data set, all of them when null.

    `data_dir` is the TFDS directory; null means the environment variable `TFDS_DATA_DIR`, else
    the default of TFDS. `micro_batch_size` bounds the examples held on the device at once.
    """

    name: str = one_of(tuple(DATASETS), "cifar10")
    data_dir: str | None = None
    num_examples: int | None = at_least(1, None)
    micro_batch_size: int = at_least(1, 2_500)


@dataclass
class Stop:
    """Criteria that end a run before `steps` updates; divergence always does."""

    loss_threshold: float | None = above_zero(None)


_TWO_STEPS = Condition(
    "null or two steps [begin,end] with 1 <= begin <= end",
    lambda steps: len(steps) == 2 and 1 <= steps[0] <= steps[1],
)
_DIFFERENT_QUANTITIES = Condition(
    f"a list of different names out of {', '.join(QUANTITIES)}",
    lambda names: set(names) <= set(QUANTITIES) and len(set(names)) == len(names),
    QUANTITIES,
)


@dataclass
class Monitor:
    """Arguments of `keras_aeos.AEoSMonitor`.

    From the first to the last of the two steps in `every_step` it measures after every update,
    whatever `update_freq`; null for nowhere. It measures on the first `num_examples` of the
    training examples, on all of them when null.
    """

    num_examples: int | None = at_least(1, None)
    update_freq: int = at_least(1, 20)
    every_step: list[int] | None = field(default=None, metadata={"condition": _TWO_STEPS})
    quantities: list[str] = field(
        default_factory=lambda: list(DEFAULT_QUANTITIES),
        metadata={"condition": _DIFFERENT_QUANTITIES},
    )
    num_eigenvalues: int = at_least(1, 1)
    solver: str = one_of(SOLVERS, "lanczos")
    rtol: float = above_zero(1e-3)
    max_hvps: int = at_least(1, 100)


@dataclass
class Config:
    """One run. `steps` counts updates; `output_dir` is where the run's files go.

    From update `freeze_step` on the preconditioner stays as it is; null for never.
    """

    model: Model = MISSING
    data: Data = field(default_factory=Data)
    loss: str = one_of(LOSSES, "cross_entropy")
    optimizer: Optimizer = MISSING
    steps: int = at_least(1, 500)
    freeze_step: int | None = at_least(1, None)
    stop: Stop = field(default_factory=Stop)
    monitor: Monitor = field(default_factory=Monitor)
    seed: int = at_least(0, 0)
    output_dir: str = MISSING


@dataclass
class Quadratic:
    """One run on ``f(x) = curvature · x²/2`` with a single coordinate, in float64.

    Exactly one of two keys says what the curvature is: `curvature` itself, or `edge_ratio` for
    this many times the stability threshold that the optimizer has with P = 1. `steps` counts
    updates, `start` is x₀. `first_moment` and `second_moment` are the optimizer's m₀ and ν₀; null
    leaves them at zero, where optimizers start.
    """

    optimizer: Optimizer = MISSING
    curvature: float | None = above_zero(None)
    edge_ratio: float | None = above_zero(None)
    start: float = finite(1.0)
    first_moment: float | None = finite(None)
    second_moment: float | None = setting(
        None, Condition("a finite number, 0 or more", lambda value: 0 <= value < math.inf)
    )
    steps: int = at_least(1, 100)
    output_dir: str = MISSING


# The kinds of run, by the name under `schema/` with which a file's defaults list begins.
RUNS: dict[str, type[Config] | type[Quadratic]] = {"config": Config, "quadratic": Quadratic}


def num_examples(data: Data) -> int:
    """Number of training examples that a `data` section asks for."""
    return DATASETS[data.name].num_examples if data.num_examples is None else data.num_examples


def check(config: Config | Quadratic) -> None:
    """Check every value of a complete configuration.

    Raises:
        UserError: The first value that can't be used, with what was expected.
    """
    for key, value, condition in _settings(config):
        if value is not None and not condition.holds(value):
            hint = condition.hint(value)
            raise UserError(f"{key}: expected {condition.expected}.{hint} Received: {key}={value}")
    if isinstance(config, Quadratic):
        _check_curvature(config)
        _check_moments(config)
    else:
        _check_examples(config.data, config.monitor.num_examples)


def _check_examples(data: Data, measured: int | None) -> None:
    available = DATASETS[data.name].num_examples
    wanted = num_examples(data)
    if wanted > available:
        raise UserError(
            f"data.num_examples: expected at most {available}, the size of {data.name}. "
            f"Received: data.num_examples={wanted}"
        )
    if measured is not None and measured > wanted:
        raise UserError(
            f"monitor.num_examples: expected at most {wanted}, the number of training examples. "
            f"Received: monitor.num_examples={measured}"
        )
    for key, count in (("data.num_examples", wanted), ("monitor.num_examples", measured)):
        try:
            if count is not None:
                micro_batch_size(count, data.micro_batch_size)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error


def _check_curvature(config: Quadratic) -> None:
    if (config.curvature is None) == (config.edge_ratio is None):
        raise UserError(
            "curvature, edge_ratio: expected a number for one of them and null for the other. "
            f"Received: curvature={_shown(config.curvature)}, "
            f"edge_ratio={_shown(config.edge_ratio)}"
        )


def _check_moments(config: Quadratic) -> None:
    optimizer = config.optimizer
    kept = {
        "first_moment": getattr(optimizer, "beta_1", 0.0) > 0,
        # Frozen Adam's second moment is in the file that it names.
        "second_moment": not isinstance(optimizer, (GradientDescent, HeavyBall, FrozenAdam)),
    }
    for key, has_slot in kept.items():
        value = getattr(config, key)
        if value is not None and not has_slot:
            raise UserError(
                f"{key}: expected null, because {optimizer.name} keeps none that could be set. "
                f"Received: {key}={value}"
            )


def _shown(value: float | None) -> str:
    return "null" if value is None else str(value)


def _settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Condition]]:
    for item in dataclasses.fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
        elif "condition" in item.metadata:
            yield key, value, item.metadata["condition"]
