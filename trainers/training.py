"""Training of one run, from its configuration to its files."""

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

import keras_aeos
from trainers import report, run_directory, schema
from trainers.callbacks import Evaluation, OnceBelow, ProgressBar, StopCriteria
from trainers.data import feed as data
from trainers.data import source as sources
from trainers.errors import UserError
from trainers.evaluation.translation import TranslationEvaluation
from trainers.models.transformer import TokenCrossEntropy
from trainers.schedules import WarmUp

OPTIMIZERS = {
    "gradient_descent": keras_aeos.optimizers.GradientDescent,
    "heavy_ball": keras_aeos.optimizers.HeavyBall,
    "nesterov": keras_aeos.optimizers.Nesterov,
    "rmsprop": keras_aeos.optimizers.RMSprop,
    "adagrad": keras_aeos.optimizers.Adagrad,
    "adam": keras_aeos.optimizers.Adam,
    "adamw": keras_aeos.optimizers.AdamW,
    "amsgrad": keras_aeos.optimizers.AMSGrad,
    "padam": keras_aeos.optimizers.Padam,
    "nadam": keras_aeos.optimizers.Nadam,
    "adafactor": keras_aeos.optimizers.Adafactor,
    "frozen_adam": keras_aeos.optimizers.FrozenAdam,
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `record` is the content of its `run.json`."""

    record: dict
    summary: report.EdgeSummary

    def line(self, directory: Path) -> str:
        """One line for a job of a sweep."""
        return f"{directory}: {self.record['stop_reason']}; {self.summary.sentence()}"

    def report(self, directory: Path) -> str:
        """Where everything is, for a single run."""
        seconds = self.record["wall_seconds"]
        return "\n".join(
            (
                f"{self.record['steps']} steps in {seconds:.0f} s: {self.record['stop_reason']}",
                f"measurements: {directory / run_directory.METRICS}",
                f"TensorBoard:  {directory / run_directory.TENSORBOARD}",
                f"              tensorboard --logdir {directory / run_directory.TENSORBOARD}",
                f"figure:       {directory / run_directory.CURVES}",
                self.summary.sentence(),
                *self._evaluation(),
            )
        )

    def _evaluation(self) -> list[str]:
        """The last evaluation, if there was one."""
        last = self.record["last_evaluation"]
        if last is None:
            return []
        values = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "step")
        return [f"test split at step {last['step']:.0f}: {values}"]


def train(config: schema.Config, directory: Path, choices: dict[str, str]) -> Outcome:
    """Train, measure and write every file of the run.

    The same configuration on the same machine gives the same `metrics.csv`, but for `seconds` and
    `overhead`.

    Args:
        config: The checked configuration.
        directory: Where the files go.
        choices: Name of the configuration and options of its groups, for the record.

    Raises:
        UserError: The data set or the file of second moments is missing, an image is broken, the
            images don't suit the model, or the directory is in use by something else.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    with sources.broken_image_named(config):
        feed = data.load(config)
    model = build_model(config, feed)
    build_optimizer(config.optimizer)  # before an earlier run's files are replaced
    record = run_directory.start(directory, config, choices)
    started = time.monotonic()
    with run_directory.interruption_recorded(directory, record):
        stop, solution_step = _fit(config, model, feed, directory)
    record.update(
        stop_reason=stop.reason,
        steps=stop.steps,
        first_loss=stop.first_loss,
        last_loss=stop.last_loss,
        solution_step=solution_step,
        last_evaluation=run_directory.last_evaluation(directory),
        wall_seconds=round(time.monotonic() - started, 1),
    )
    run_directory.write(directory, record)
    report.draw_run(directory)
    # Last of all, so that a run counts as finished only with all of its files.
    record["status"] = stop.status
    run_directory.write(directory, record)
    return Outcome(record, report.summarise(directory))


def _fit(
    config: schema.Config, model: keras.Model, feed: data.Feed, directory: Path
) -> tuple[StopCriteria, int | None]:
    """Train; return what ended it and the step of the measurement at `monitor.loss_threshold`."""
    compile_accumulating(model, config, feed.num_micro_batches)
    settings = dataclasses.asdict(config.monitor)
    for name in ("num_examples", "every_step", "steps_per_decade", "loss_threshold"):
        del settings[name]
    settings["update_freq"] = update_freq(config)
    method, rtol, max_hvps = (settings.pop(name) for name in ("solver", "rtol", "max_hvps"))
    settings["solver"] = keras_aeos.Eigensolver(method, rtol, max_hvps)
    monitor = keras_aeos.AEoSMonitor(feed.measured, log_dir=directory, **settings)
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
        evaluation = _evaluation(config, feed, feed.test, directory)
        callbacks.append(evaluation)
        if config.evaluation.loss_threshold is not None:
            below = config.evaluation.loss_threshold
            callbacks.append(OnceBelow(below, epoch, evaluation.evaluate))
    callbacks.append(ProgressBar(config.steps, monitor, directory.name))
    with sources.broken_image_named(config):
        model.fit(
            feed.training,
            steps_per_epoch=feed.num_micro_batches,
            epochs=config.steps,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    model.save_weights(directory / run_directory.WEIGHTS)
    if model.optimizer.second_moments:
        keras_aeos.optimizers.save_second_moments(
            model.optimizer, directory / run_directory.SECOND_MOMENTS
        )
    return stop, solution.step if solution else None


def _evaluation(
    config: schema.Config, feed: data.Feed, test: tf.data.Dataset, directory: Path
) -> Evaluation:
    section = config.evaluation
    pairs = feed.sentences.test_pairs if feed.sentences else None
    if isinstance(section, schema.TranslationEvaluation) and feed.sentences and pairs:
        return TranslationEvaluation(
            test, directory, section, feed.updates_per_epoch, feed.sentences.vocabulary, pairs
        )
    return Evaluation(test, directory, section.freq, feed.updates_per_epoch)


def build_model(config: schema.Config, feed: data.Feed | None = None) -> keras.Model:
    """The network of the `model` section, with initial weights that follow from the seed.

    Args:
        config: The checked configuration.
        feed: What the run is fed; needed for the vocabulary of a model that translates.

    Raises:
        UserError: The images of the data set don't suit it.
    """
    module = import_module(f"trainers.models.{config.model.name}")
    if feed is not None and feed.sentences is not None:
        return module.build_model(config, len(feed.sentences.vocabulary))
    try:
        return module.build_model(config)
    except ValueError as error:
        shape = schema.DATASETS[config.data.name].input_shape
        raise UserError(
            f"model: the network can't be built for the images of {config.data.name}, {shape}: "
            f"{' '.join(str(error).split())}"
        ) from error


def update_freq(config: schema.Config) -> int | list[int]:
    """The monitor's `update_freq`: a number of updates, or those to measure after."""
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
        steps.update(range(begin, end + 1))
    return sorted(steps)


def compile_accumulating(model: keras.Model, config: schema.Config, num_batches: int) -> None:
    """Compile so that one epoch of `num_batches` equal micro-batches is one update.

    The optimizer adds up the micro-batches' gradients and applies their mean with the last one, so
    that memory holds one micro-batch; Keras runs the epoch as one call of a graph. The `loss` that
    callbacks see at the end of an epoch is the loss of the whole batch before the update.

    BatchNorm normalises a micro-batch by the statistics of that micro-batch ("ghost batches"), so
    that with it the update depends on how the batch is divided, otherwise only its rounding.

    The squared error is the mean over examples and outputs; the cross-entropy is that of logits,
    of sentences the sum over tokens with the weights that the micro-batches bring.
    """
    if isinstance(config.model, schema.Transformer):
        loss = TokenCrossEntropy(config.model.label_smoothing)
    elif config.loss == "cross_entropy":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        loss = keras.losses.MeanSquaredError()
    optimizer = build_optimizer(
        config.optimizer,
        **learning_rate(config, num_batches),
        gradient_accumulation_steps=num_batches if num_batches > 1 else None,
    )
    model.compile(optimizer, loss=loss, steps_per_execution=num_batches)
    # Variables that are there spare a second tracing of the step, minutes on a deep network.
    optimizer.build(model.trainable_variables)


def learning_rate(config: schema.Config, num_batches: int) -> dict[str, Any]:
    """The argument `learning_rate` of an optimizer, if a schedule takes the number's place."""
    if not config.schedule.warmup_steps:
        return {}
    settings = dataclasses.asdict(config.schedule)
    rate = config.optimizer.learning_rate
    return {"learning_rate": WarmUp(rate, **settings, micro_steps=num_batches)}


def build_optimizer(section: schema.Optimizer, **arguments: Any) -> keras.optimizers.Optimizer:
    """The optimizer of an `optimizer` section, with more arguments of Keras optimizers.

    Raises:
        UserError: The file of second moments can't be read.
    """
    settings = {**dataclasses.asdict(section), **arguments}
    try:
        return OPTIMIZERS[settings.pop("name")](**settings)
    except (OSError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error
