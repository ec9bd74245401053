"""The kinds of run and their other sections: data, stop criteria, monitor, evaluation."""

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from trainers.schema.conditions import Condition, above_zero, at_least, finite, one_of, setting
from trainers.schema.datasets import DATASETS
from trainers.schema.models import Model
from trainers.schema.optimizers import Optimizer, Schedule

LOSSES = ("cross_entropy", "squared_error")
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
class Data:
    """Training examples: the first `num_examples` of the data set, all of them when null.

    `data_dir` is the TFDS directory; null means the environment variable `TFDS_DATA_DIR`, else
    the default of TFDS. `batch_size` is the number of examples of an update, drawn anew for each,
    or null for all of them (full batch). `micro_batch_size` bounds the examples on the device at
    once, in training as in measuring.
    """

    name: str = one_of(tuple(DATASETS), "cifar10")
    data_dir: str | None = None
    num_examples: int | None = at_least(1, None)
    batch_size: int | None = at_least(1, None)
    micro_batch_size: int = at_least(1, 2_500)


@dataclass
class Stop:
    """Criteria that end a run before `steps` updates; divergence always does.

    The training loss is that of the full batch, or in minibatches the mean over the last epoch.
    """

    loss_threshold: float | None = above_zero(None)


@dataclass
class Evaluation:
    """When to evaluate on the test split: at multiples of `freq` updates; null for never.

    And after the first update with a training loss of at most `loss_threshold`, if there is one.
    """

    freq: int | None = at_least(1, None)
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
    whatever else; null for nowhere. `steps_per_decade` replaces `update_freq` by so many numbers of
    updates between one power of ten and the next, evenly on a log axis. It measures on the first
    `num_examples` of the training examples, on all of them when null. And it measures after the
    first update with a training loss of at most `loss_threshold`, at the solution, as it were; null
    for not.
    """

    num_examples: int | None = at_least(1, None)
    update_freq: int = at_least(1, 20)
    steps_per_decade: int | None = at_least(1, None)
    every_step: list[int] | None = field(default=None, metadata={"condition": _TWO_STEPS})
    quantities: list[str] = field(
        default_factory=lambda: list(DEFAULT_QUANTITIES),
        metadata={"condition": _DIFFERENT_QUANTITIES},
    )
    num_eigenvalues: int = at_least(1, 1)
    solver: str = one_of(SOLVERS, "lanczos")
    rtol: float = above_zero(1e-3)
    max_hvps: int = at_least(1, 100)
    loss_threshold: float | None = above_zero(None)


@dataclass
class Config:
    """One run. `steps` counts updates; `output_dir` is where the run's files go.

    From update `freeze_step` on the preconditioner stays as it is; null for never.
    """

    model: Model = MISSING
    data: Data = field(default_factory=Data)
    loss: str = one_of(LOSSES, "cross_entropy")
    optimizer: Optimizer = MISSING
    schedule: Schedule = field(default_factory=Schedule)
    steps: int = at_least(1, 500)
    freeze_step: int | None = at_least(1, None)
    stop: Stop = field(default_factory=Stop)
    monitor: Monitor = field(default_factory=Monitor)
    evaluation: Evaluation = field(default_factory=Evaluation)
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
