"""The kinds of run, and the sections that don't depend on the task: stop criteria, monitor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from trainers.errors import UserError
from trainers.schema.conditions import (
    PATH,
    Condition,
    above_zero,
    at_least,
    between,
    finite,
    one_of,
    setting,
)
from trainers.schema.images import Data, Evaluation, Model
from trainers.schema.optimizers import Optimizer
from trainers.schema.section import Section

MAX_STEPS = 10_000_000
AFTER_WARM_UP = ("constant", "inverse_square_root")
RESUME = ("auto", "never")
STRATEGIES = ("none", "mirrored", "multi_worker")
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
    *("critical_learning_rate", "edge_layer", "layer_sharpness", "batch_edge_ratio"),
)
DEFAULT_QUANTITIES = QUANTITIES[:4]  # what `AEoSMonitor` measures by default


@dataclass
class Schedule:
    """How the learning rate depends on the number t of updates, counted from 1.

    It rises linearly, as ``learning_rate t / warmup_steps``. After `warmup_steps` updates it is
    constant or falls as ``learning_rate √(warmup_steps / t)``.
    """

    warmup_steps: int = at_least(0, 0)
    after: str = one_of(AFTER_WARM_UP, "constant")


@dataclass
class Stop:
    """Criteria that end a run before `steps` updates; divergence always ends it.

    The training loss is that of the full batch, or with minibatches the mean over the last epoch.
    """

    loss_threshold: float | None = above_zero(None)


_TWO_STEPS = Condition(
    "null or two steps [begin,end] with 1 <= begin <= end",
    lambda steps: len(steps) == 2 and 1 <= steps[0] <= steps[1],
)
_DISTINCT_QUANTITIES = Condition(
    f"a list of distinct names from {', '.join(QUANTITIES)}",
    lambda names: all(n in QUANTITIES for n in names) and len(set(names)) == len(names),
    QUANTITIES,
)


@dataclass
class Monitor:
    """Arguments of `keras_aeos.AEoSMonitor`.

    It measures on the first `num_examples` of the training examples, on all of them when null.
    From the first to the last of the two steps in `every_step` it measures after every update as
    well; null for nowhere. `steps_per_decade` replaces `update_freq` by this many steps between one
    power of ten and the next, evenly spaced on a log axis. With `loss_threshold` it also measures
    at the solution: after the first update with a training loss of at most that; null for not.
    """

    num_examples: int | None = at_least(1, None)
    update_freq: int = at_least(1, 20)
    steps_per_decade: int | None = between(1, 1_000, None)
    every_step: list[int] | None = field(default=None, metadata={"condition": _TWO_STEPS})
    quantities: list[str] = field(
        default_factory=lambda: list(DEFAULT_QUANTITIES),
        metadata={"condition": _DISTINCT_QUANTITIES},
    )
    num_eigenvalues: int = at_least(1, 1)
    solver: str = one_of(SOLVERS, "lanczos")
    rtol: float = setting(1e-3, Condition("a number between 0 and 1", lambda value: 0 < value < 1))
    max_hvps: int = at_least(1, 100)
    loss_threshold: float | None = above_zero(None)


@dataclass
class Checkpoint:
    """When a run is saved so that it can go on: every `freq` updates, and every `minutes` minutes.

    Null for one of them leaves that out. A checkpoint is written between two updates, and at a
    signal that ends the run. The last two are kept until the run is finished.
    """

    freq: int | None = at_least(1, None)
    minutes: float | None = above_zero(10.0)


@dataclass
class Run:
    """Base of the kinds of run; `kind` is the module under `trainers/` that carries them out."""

    kind: ClassVar[str]

    def check(self) -> None:
        """Check what the conditions on single values don't say."""
        raise NotImplementedError


@dataclass
class Config(Run):
    """Training of a network. `steps` counts updates; `output_dir` is where the run's files go.

    From update `freeze_step` on the preconditioner is constant; null for never. `strategy` says
    which devices train: one, all of this machine, or those of several processes. A run that was
    interrupted in `output_dir` goes on there, unless `resume` is "never".
    """

    kind: ClassVar[str] = "training"

    model: Model = MISSING
    data: Data = field(default_factory=Data)
    loss: str = one_of(LOSSES, "cross_entropy")
    optimizer: Optimizer = MISSING
    schedule: Schedule = field(default_factory=Schedule)
    steps: int = between(1, MAX_STEPS, 500)
    freeze_step: int | None = at_least(1, None)
    stop: Stop = field(default_factory=Stop)
    monitor: Monitor = field(default_factory=Monitor)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    strategy: str = one_of(STRATEGIES, "none")
    seed: int = between(0, 2**32 - 1, 0)
    output_dir: str = setting(MISSING, PATH)
    resume: str = one_of(RESUME, "auto")

    def check(self) -> None:
        """Check that the sections are of one task, and that they meet what it asks for."""
        sections: dict[str, Section] = {
            **{"data": self.data, "evaluation": self.evaluation},
            "model": self.model,
        }
        if len({section.task for section in sections.values()}) > 1:
            tasks = ", ".join(f"{section.task} for {key}" for key, section in sections.items())
            raise UserError(
                "data, evaluation, model: expected sections of one task, as in "
                f"configs/transformer.yaml for translation. Received: {tasks}"
            )
        for section in sections.values():
            section.check(self)
        for key, reason in self._without_effect():
            place, _, name = key.rpartition(".")
            value = getattr(getattr(self, place) if place else self, name)
            raise UserError(f"{key}: without effect, because {reason}. Received: {key}={value}")

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """The settings that change nothing, each with the reason."""
        steps, monitor, schedule = self.steps, self.monitor, self.schedule
        if self.freeze_step is not None:
            if self.freeze_step > steps:
                yield "freeze_step", f"the run has {steps} steps"
            if not self.optimizer.keeps_second_moment():
                yield "freeze_step", f"{self.optimizer.name} has no preconditioner that changes"
        if schedule.after != "constant" and not 0 < schedule.warmup_steps < steps:
            yield (
                "schedule.after",
                f"schedule.warmup_steps={schedule.warmup_steps} of {steps} steps",
            )
        if monitor.every_step is not None and monitor.every_step[0] > steps:
            yield "monitor.every_step", f"the run has {steps} steps"
        other = (monitor.every_step, monitor.steps_per_decade, monitor.loss_threshold)
        if monitor.update_freq > steps and other == (None, None, None):
            yield "monitor.update_freq", f"nothing is measured in {steps} steps"
        if self.evaluation.freq is not None and self.evaluation.freq > steps:
            yield "evaluation.freq", f"the run has {steps} steps"
        if self.checkpoint.freq is not None and self.checkpoint.freq >= steps:
            yield "checkpoint.freq", f"the run has {steps} steps, and none is written at its end"
        end = self.stop.loss_threshold or 0.0
        for key in ("monitor", "evaluation"):
            threshold = getattr(self, key).loss_threshold
            if threshold is not None and threshold < end:
                yield f"{key}.loss_threshold", f"stop.loss_threshold={end} ends the run before"


@dataclass
class Quadratic(Run):
    """An optimizer on ``f(x) = curvature · x²/2`` with a single coordinate, in float64.

    Exactly one of two keys says what the curvature is: `curvature` itself, or `edge_ratio` for
    this many times the stability threshold that the optimizer has with P = 1. `steps` counts
    updates, `start` is x₀. `first_moment` and `second_moment` are the optimizer's m₀ and ν₀; null
    leaves them at zero, where optimizers start. `checkpoint` and `resume` are those of `Config`.
    """

    kind: ClassVar[str] = "quadratic"

    optimizer: Optimizer = MISSING
    curvature: float | None = above_zero(None)
    edge_ratio: float | None = above_zero(None)
    start: float = finite(1.0)
    first_moment: float | None = finite(None)
    second_moment: float | None = setting(
        None, Condition("a finite number, 0 or more", lambda value: 0 <= value < math.inf)
    )
    steps: int = between(1, MAX_STEPS, 100)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    output_dir: str = setting(MISSING, PATH)
    resume: str = one_of(RESUME, "auto")

    def check(self) -> None:
        """Check that every setting has an effect, and that the optimizer has the moments to set."""
        if self.checkpoint.freq is not None and self.checkpoint.freq >= self.steps:
            raise UserError(
                f"checkpoint.freq: without effect, because the run has {self.steps} steps, and "
                f"none is written at its end. Received: checkpoint.freq={self.checkpoint.freq}"
            )
        if (self.curvature is None) == (self.edge_ratio is None):
            raise UserError(
                "curvature, edge_ratio: expected a number for one of them and null for the other. "
                f"Received: curvature={_shown(self.curvature)}, "
                f"edge_ratio={_shown(self.edge_ratio)}"
            )
        for key, value, kept in (
            ("first_moment", self.first_moment, self.optimizer.keeps_first_moment()),
            ("second_moment", self.second_moment, self.optimizer.keeps_second_moment()),
        ):
            if value is not None and not kept:
                raise UserError(
                    f"{key}: expected null, because {self.optimizer.name} has none that can be "
                    f"set. Received: {key}={value}"
                )


def _shown(value: float | None) -> str:
    return "null" if value is None else str(value)


# The kinds of run, by the name under `schema/` with which a file's defaults list begins.
RUNS: dict[str, type[Config] | type[Quadratic]] = {"config": Config, "quadratic": Quadratic}
