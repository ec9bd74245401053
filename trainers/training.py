"""Training of a network, from its configuration to the files of the run."""

import dataclasses
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_aeos
from keras_aeos.curvature import replicas
from trainers import checkpoint, loop, report, run_directory, schema, strategies
from trainers.callbacks import OnceBelow, ProgressBar, StopCriteria
from trainers.checkpoint import Checkpoint, Checkpointing, Checkpoints, Clock, Stateful
from trainers.data.feed import Feed
from trainers.errors import RunError, UserError
from trainers.optimizers import build_optimizer, learning_rate
from trainers.signals import Interrupted, signals
from trainers.tasks.base import Task, task_of

# What a process sees of others that die.
_LOST = (tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.UnavailableError)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the content of its `run.json`, what it shows, and that as a table."""

    record: dict
    summary: report.EdgeSummary
    table: str

    def line(self, directory: Path) -> str:
        """One line for a job of a sweep."""
        return f"{directory}: {self.record['stop_reason']}; {self.summary.sentence()}"

    def report(self, directory: Path) -> str:
        """The report on a single run: where its files are and what they show."""
        seconds = self.record["wall_seconds"]
        return "\n".join(
            (
                f"{self.record['steps']} steps in {seconds:.0f} s: {self.record['stop_reason']}",
                f"measurements: {directory / run_directory.METRICS}",
                f"TensorBoard:  {directory / run_directory.TENSORBOARD}",
                f"              tensorboard --logdir {directory / run_directory.TENSORBOARD}",
                f"figure:       {directory / run_directory.CURVES}",
                self.summary.sentence(),
                *([self.table] if self.table else []),
                *self._evaluation(),
            )
        )

    def _evaluation(self) -> list[str]:
        """A line on the last evaluation, if there was one."""
        last = self.record["last_evaluation"]
        if last is None:
            return []
        values = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "step")
        return [f"test split at step {last['step']:.0f}: {values}"]


def train(config: schema.Config, directory: Path, choices: dict[str, str]) -> Outcome:
    """Train, measure and write every file of the run.

    The same configuration on the same machine gives the same `metrics.csv`, apart from `seconds`
    and `overhead`.

    Args:
        config: The checked configuration.
        directory: Where the files go.
        choices: Name of the configuration and options of its groups, for the record.

    Raises:
        RunError: Another process of the run has ended.
        UserError: The data set or the file of second moments is missing, an image is broken, the
            network can't be built for the images, or the directory holds other files.
    """
    strategy = strategies.strategy(config.strategy)
    try:
        with (
            strategies.own_directory(strategy, directory) as own,
            run_directory.claimed(own),
        ):
            saved = _saved(config, directory, strategy)
            return _train(config, own, choices, strategy, saved)
    except _LOST as error:
        message = " ".join(error.message.split())
        raise RunError(
            f"another process of the run has ended or can't be reached: {message[:200]}. Start "
            "all of them again: they go on from the last checkpoint, if there is one"
        ) from error


def _train(
    config: schema.Config,
    directory: Path,
    choices: dict[str, str],
    strategy: tf.distribute.Strategy,
    saved: Checkpoint | None,
) -> Outcome:
    """Train under a strategy, from a checkpoint if there is one."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    task = task_of(config)
    with task.broken_example_named():
        feed = task.feed(strategy.num_replicas_in_sync)
    # All that can be refused is, before the files of an earlier run are moved.
    run_directory.check_free(directory)
    with strategy.scope():
        model = task.build_model()
        compile_model(model, task)
    callbacks = _callbacks(task, feed, directory, strategies.is_chief(strategy), saved)
    if saved is None:
        record = run_directory.start(directory, config, choices)
    else:
        _restore(saved, model, callbacks)
        record = run_directory.go_on(directory, saved.update)
    with run_directory.interruption_recorded(directory, record, config):
        with signals.held_back():
            _fit(task, model, feed, callbacks, directory, saved.update if saved else 0)
        return _finish(directory, record, callbacks)


def _saved(
    config: schema.Config, directory: Path, strategy: tf.distribute.Strategy
) -> Checkpoint | None:
    """The checkpoint from which a run goes on, the same in all processes; None if it begins.

    Raises:
        UserError: The processes find different ones.
    """
    saved = None
    if config.resume != "never" and run_directory.is_interrupted(directory, config):
        saved = Checkpoints(directory, checkpoint.read).newest()
    update = saved.update if saved else 0
    # Nothing is written before all processes have read.
    (of_chief,) = replicas.total(strategy, [float(strategies.is_chief(strategy) and update)])
    (num_others,) = replicas.total(strategy, [float(update != of_chief)])
    if num_others:
        raise UserError(
            f"resume: expected all processes to find the same last checkpoint in {directory}, that "
            f"of update {of_chief:.0f}. Give them one file system, or start anew with "
            f"resume=never. Received: that of update {update} in this process"
        )
    return saved


def _restore(saved: Checkpoint, model: keras.Model, callbacks: "_Callbacks") -> None:
    """Let a run go on from a checkpoint.

    Raises:
        UserError: It is not one of this run.
    """
    try:
        saved.restore(model, callbacks.monitor, callbacks.stateful)
    except (TypeError, ValueError) as error:
        raise checkpoint.unusable(error) from error


def _finish(directory: Path, record: dict[str, Any], callbacks: "_Callbacks") -> Outcome:
    """Write what there is to say at the end of a run."""
    stop, solution = callbacks.stop, callbacks.solution
    record.update(
        stop_reason=stop.reason,
        steps=stop.steps,
        first_loss=stop.first_loss,
        last_loss=stop.last_loss,
        solution_step=solution.step if solution else None,
        last_evaluation=run_directory.last_evaluation(directory),
        wall_seconds=round(callbacks.clock.seconds, 1),
    )
    run_directory.write(directory, record)
    report.draw_run(directory)
    # Last, so that a run counts as finished only once all of its files are written.
    record["status"] = stop.status
    run_directory.write(directory, record)
    callbacks.checkpoints.remove()
    return Outcome(record, report.summarise(directory), report.small_table(directory))


@dataclass(frozen=True)
class _Callbacks:
    """The callbacks of a run; those that tell how it went, and those that remember something."""

    all: list[keras.callbacks.Callback]
    monitor: keras_aeos.AEoSMonitor
    stop: StopCriteria
    solution: OnceBelow | None
    stateful: list[Stateful]
    clock: Clock
    checkpoints: Checkpoints[Checkpoint]


def _callbacks(
    task: Task, feed: Feed, directory: Path, chief: bool, saved: Checkpoint | None
) -> _Callbacks:
    """The monitor and the other callbacks of a run; they write nothing yet.

    The chief alone evaluates and shows how far the run is. The monitor measures in every process,
    because the replicas may share a measurement.
    """
    config = task.config
    settings = dataclasses.asdict(config.monitor)
    for name in ("num_examples", "every_step", "steps_per_decade", "loss_threshold"):
        del settings[name]
    settings["update_freq"] = update_freq(config)
    method, rtol, max_hvps = (settings.pop(name) for name in ("solver", "rtol", "max_hvps"))
    try:
        settings["solver"] = keras_aeos.Eigensolver(method, rtol, max_hvps)
        monitor = keras_aeos.AEoSMonitor(feed.measured, log_dir=directory, **settings)
    except ValueError as error:
        raise UserError(f"monitor: {error}") from error
    epoch = feed.updates_per_epoch
    stop = StopCriteria(config.stop.loss_threshold, epoch)
    callbacks: list[keras.callbacks.Callback] = [monitor, stop]
    stateful: list[Any] = [stop]
    if config.freeze_step:
        callbacks.append(keras_aeos.FreezePreconditioner(config.freeze_step))
    solution = None
    if config.monitor.loss_threshold is not None:
        solution = OnceBelow(config.monitor.loss_threshold, epoch, monitor.measure)
        callbacks.append(solution)
        stateful.append(solution)
    if feed.test is not None and chief:
        evaluation = task.evaluation(feed.test, directory, epoch)
        callbacks.append(evaluation)
        stateful.append(evaluation)
        if config.evaluation.loss_threshold is not None:
            threshold = config.evaluation.loss_threshold
            below = OnceBelow(threshold, epoch, evaluation.evaluate)
            callbacks.append(below)
            stateful.append(below)
    if chief:
        callbacks.append(ProgressBar(config.steps, directory.name))
    clock = Clock(config.checkpoint, saved.seconds if saved else 0.0)
    checkpoints = Checkpoints(directory, checkpoint.read)
    callbacks.append(Checkpointing(clock, config.steps, checkpoints, monitor, stateful))
    return _Callbacks(callbacks, monitor, stop, solution, stateful, clock, checkpoints)


def _fit(
    task: Task,
    model: keras.Model,
    feed: Feed,
    callbacks: _Callbacks,
    directory: Path,
    initial_update: int,
) -> None:
    """Train, and write the weights and second moments."""
    try:
        with task.broken_example_named():
            loop.fit(model, feed, task.config.steps, callbacks.all, initial_update)
    except Interrupted:
        for bar in callbacks.all:
            if isinstance(bar, ProgressBar):
                bar.on_train_end()  # so that what is said begins a line
        raise
    stop = callbacks.stop
    if stop.status == "completed" and not _finite(model.trainable_variables):
        stop.status, stop.reason = "diverged", "the last update made the weights not finite"
    part = directory / f"part.{run_directory.WEIGHTS}"
    try:
        model.save_weights(part)
        part.replace(directory / run_directory.WEIGHTS)
    except OSError:
        if part.exists():  # and open still, so that it would go on filling the disk
            os.truncate(part, 0)
            part.unlink()
        raise
    # Moments that overflowed are no averages of squares, and nothing can start from them.
    moments = model.optimizer.second_moments
    if moments and _finite(keras.tree.flatten(moments)):
        keras_aeos.optimizers.save_second_moments(
            model.optimizer, directory / run_directory.SECOND_MOMENTS
        )


def _finite(variables: Iterable[keras.Variable]) -> bool:
    """Whether every entry of every variable is finite."""
    return all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in variables)


def update_freq(config: schema.Config) -> int | list[int]:
    """The monitor's `update_freq`: every how many updates, or after which ones, to measure."""
    section = config.monitor
    if section.every_step is None and section.steps_per_decade is None:
        return section.update_freq
    if section.steps_per_decade is None:
        steps = set(range(section.update_freq, config.steps + 1, section.update_freq))
    else:
        count = int(section.steps_per_decade * math.log10(config.steps)) + 1
        steps = {round(10 ** (i / section.steps_per_decade)) for i in range(count)} | {config.steps}
    if section.every_step is not None:
        begin, end = section.every_step
        steps.update(range(begin, min(end, config.steps) + 1))
    return sorted(steps)


def compile_model(model: keras.Model, task: Task) -> None:
    """Compile a model for the loop: with the optimizer of the configuration, built, and the loss.

    Raises:
        UserError: The optimizer doesn't fit the network.
    """
    optimizer = build_optimizer(task.config.optimizer, learning_rate=learning_rate(task.config))
    model.compile(optimizer, loss=task.loss())
    try:
        model.optimizer.build(model.trainable_variables)
    except ValueError as error:  # second moments of another network
        raise UserError(f"optimizer: {error}") from error
