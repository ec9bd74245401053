"""Training of a network, from its configuration to the files of the run."""

import dataclasses
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_aeos
from trainers import report, run_directory, schema
from trainers.callbacks import OnceBelow, ProgressBar, StopCriteria
from trainers.data.feed import Feed
from trainers.errors import UserError
from trainers.optimizers import build_optimizer, learning_rate
from trainers.tasks.base import Task, task_of


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `record` is the content of its `run.json`."""

    record: dict
    summary: report.EdgeSummary

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
                report.small_table(directory),
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
        UserError: The data set or the file of second moments is missing, an image is broken, the
            network can't be built for the images, or the directory holds other files.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    task = task_of(config)
    with task.broken_example_named():
        feed = task.feed()
    # All that can be refused is, before the files of an earlier run are moved.
    run_directory.check_free(directory)
    model = task.build_model()
    compile_accumulating(model, task, feed.num_micro_batches)
    callbacks = _callbacks(task, feed, directory)
    record = run_directory.start(directory, config, choices)
    started = time.monotonic()
    with run_directory.interruption_recorded(directory, record):
        _fit(task, model, feed, callbacks, directory)
    stop, solution = callbacks.stop, callbacks.solution
    record.update(
        stop_reason=stop.reason,
        steps=stop.steps,
        first_loss=stop.first_loss,
        last_loss=stop.last_loss,
        solution_step=solution.step if solution else None,
        last_evaluation=run_directory.last_evaluation(directory),
        wall_seconds=round(time.monotonic() - started, 1),
    )
    run_directory.write(directory, record)
    report.draw_run(directory)
    # Last, so that a run counts as finished only once all of its files are written.
    record["status"] = stop.status
    run_directory.write(directory, record)
    return Outcome(record, report.summarise(directory))


@dataclass(frozen=True)
class _Callbacks:
    """The callbacks of a run, and those of them that tell how it went."""

    all: list[keras.callbacks.Callback]
    stop: StopCriteria
    solution: OnceBelow | None


def _callbacks(task: Task, feed: Feed, directory: Path) -> _Callbacks:
    """The monitor and the other callbacks of a run; they write nothing yet."""
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
    callbacks = [monitor, stop]
    if config.freeze_step:
        callbacks.append(keras_aeos.FreezePreconditioner(config.freeze_step))
    solution = None
    if config.monitor.loss_threshold is not None:
        solution = OnceBelow(config.monitor.loss_threshold, epoch, monitor.measure)
        callbacks.append(solution)
    if feed.test is not None:
        evaluation = task.evaluation(feed.test, directory, epoch)
        callbacks.append(evaluation)
        if config.evaluation.loss_threshold is not None:
            below = config.evaluation.loss_threshold
            callbacks.append(OnceBelow(below, epoch, evaluation.evaluate))
    callbacks.append(ProgressBar(config.steps, directory.name))
    return _Callbacks(callbacks, stop, solution)


def _fit(
    task: Task, model: keras.Model, feed: Feed, callbacks: _Callbacks, directory: Path
) -> None:
    """Train, and write the weights and second moments."""
    if feed.resident is not None:
        feed.resident.feed(model)
    with task.broken_example_named():
        model.fit(
            feed.training if feed.resident is None else feed.resident.numbers,
            steps_per_epoch=feed.num_micro_batches,
            epochs=task.config.steps,
            shuffle=False,
            verbose=0,
            callbacks=callbacks.all,
        )
    stop = callbacks.stop
    if stop.status == "completed" and not _finite(model.trainable_variables):
        stop.status, stop.reason = "diverged", "the last update made the weights not finite"
    model.save_weights(directory / run_directory.WEIGHTS)
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


def compile_accumulating(model: keras.Model, task: Task, num_batches: int) -> None:
    """Compile so that one epoch of `num_batches` equal micro-batches is one update.

    The optimizer adds up the micro-batches' gradients and applies their mean with the last one, so
    that memory holds one micro-batch; Keras runs the epoch as one call of a graph. The `loss` that
    callbacks see at the end of an epoch is the loss of the whole batch before the update.

    BatchNorm normalises a micro-batch by the statistics of that micro-batch ("ghost batches"), so
    that with it the update depends on how the batch is divided, otherwise only its rounding.
    """
    config = task.config
    optimizer = build_optimizer(
        config.optimizer,
        learning_rate=learning_rate(config, num_batches),
        gradient_accumulation_steps=num_batches if num_batches > 1 else None,
    )
    model.compile(optimizer, loss=task.loss(), steps_per_execution=num_batches)
    # With its variables built, the step is traced once, not twice: minutes on a deep network.
    try:
        optimizer.build(model.trainable_variables)
    except ValueError as error:  # second moments of another network
        raise UserError(f"optimizer: {error}") from error
