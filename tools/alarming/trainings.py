"""Trainings of one network, each watched after every update; graphs are traced once for all."""

import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_aeos
from tools.alarming import events
from tools.alarming.networks import NETWORKS
from tools.alarming.plan import Training

NUM_UPDATES = 200
# Updates from one row to the next; sparser ones are taken from these.
SPACING = 8
# Columns of each update, and those of a row that follow it where there is one. `fixed_loss` is the
# loss of the measured examples before the update.
OF_APPLYING = ("gradient_norm", "update_norm", "update_correlation")
OF_UPDATE = ("loss", "fixed_loss", *OF_APPLYING, "update_seconds")
OF_ROW = (
    *("measured_loss", "preconditioned_sharpness", "stability_threshold", "edge_ratio"),
    *("sharpness", "gradient_norm_squared", "num_hvps", "seconds", "converged"),
)
# The monitor's own, where it chooses its steps.
_SOLVER = keras_aeos.Eigensolver(rtol=1e-2, max_hvps=8)
OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "AdamW": functools.partial(keras.optimizers.AdamW, weight_decay=0.1),
    "RMSprop": keras.optimizers.RMSprop,
    "SGD": functools.partial(keras.optimizers.SGD, momentum=0.9),
}


class Bench:
    """A network on which trainings are made, one after the other.

    The initial values of a seed are kept, and every training begins with them, and with an
    optimizer as new.

    Args:
        name: Name of the network.
    """

    def __init__(self, name: str) -> None:
        self._network = network = NETWORKS[name]
        self.model = self._fresh(0)
        self.model.compile("sgd", network.loss())
        x, y, weights = network.examples()
        self._data = (x, y) if weights is None else (x, y, weights)
        self.num_examples = len(y)
        self._loss, self._gradient = _functions(
            self.model, tf.nest.map_structure(tf.constant, x), y, weights
        )
        self._previous = [tf.Variable(tf.zeros(v.shape)) for v in self.model.trainable_variables]
        self._initial: dict[int, list[np.ndarray]] = {}
        self._appliers: dict[str, tuple[Any, list[np.ndarray], Any]] = {}
        self._meters: dict[int, keras_aeos.EdgeMeter] = {}

    def _fresh(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return self._network.build()

    def run(self, training: Training) -> pd.DataFrame:
        """The updates of a training, with `OF_UPDATE` and `OF_ROW`.

        A training ends with a loss that is not finite. No rows are measured after an event.
        """
        optimizer, apply = self._begin(training)
        full = training.batch == "full"
        measured = tf.range(self._network.full_batch)
        meter = self._meter(full)
        draws = self._draws(training)
        lines: list[dict[str, Any]] = []
        over = False
        for update in range(1, NUM_UPDATES + 1):
            optimizer.learning_rate = training.learning_rate(update)
            rows = next(draws)
            line = {"update": update, "learning_rate": training.learning_rate(update)}
            if not full:
                line["fixed_loss"] = float(self._loss(measured))
            began = time.perf_counter()
            loss, *gradient = self._gradient(rows)
            line["loss"] = float(loss)
            line |= dict(zip(OF_APPLYING, apply(gradient).numpy().tolist(), strict=True))
            line["update_seconds"] = time.perf_counter() - began
            line.setdefault("fixed_loss", line["loss"])  # the batch is the measured examples
            lines.append(line)
            if not np.isfinite([line["loss"], line["fixed_loss"]]).all():
                break
            if update % SPACING == 0 and not over:
                losses = np.array([line["fixed_loss"] for line in lines])
                over = events.find(losses) is not None
                if not over:
                    row = meter.measure()
                    row["measured_loss"] = row["loss"]
                    line |= {name: row[name] for name in OF_ROW}
        return pd.DataFrame(lines, columns=["update", "learning_rate", *OF_UPDATE, *OF_ROW])

    def _begin(self, training: Training) -> tuple[keras.optimizers.Optimizer, Any]:
        """Set all variables to their initial values; the optimizer, and what applies it."""
        if training.seed not in self._initial:
            fresh = self._fresh(training.seed)
            self._initial[training.seed] = [v.numpy() for v in fresh.variables]
        assign(self.model.variables, self._initial[training.seed])
        if training.optimizer not in self._appliers:
            optimizer = OPTIMIZERS[training.optimizer]()
            optimizer.build(self.model.trainable_variables)
            initial = [v.numpy() for v in optimizer.variables]
            apply = _apply_function(self.model, optimizer, self._previous)
            self._appliers[training.optimizer] = optimizer, initial, apply
        optimizer, initial, apply = self._appliers[training.optimizer]
        assign(optimizer.variables, initial)
        for previous in self._previous:
            previous.assign(tf.zeros_like(previous))
        self.model.optimizer = optimizer
        return optimizer, apply

    def _meter(self, full: bool) -> keras_aeos.EdgeMeter:
        """The meter of the examples, without memory of an earlier training."""
        network = self._network
        in_batches = network.batch_norm and not full
        size = network.mini_batch if in_batches else network.full_batch
        if size not in self._meters:
            measured = tf.nest.map_structure(lambda part: part[: network.full_batch], self._data)
            if len(measured) == 3:
                measured = (*measured[:2], measured[2] / measured[2].sum())
            self._meters[size] = keras_aeos.EdgeMeter(
                self.model, measured, solver=_SOLVER, batch_size=size
            )
        meter = self._meters[size]
        meter._tracker.clear()
        meter._num_rows = 0  # it decides which rows have the sharpness
        return meter

    def _draws(self, training: Training) -> Iterator[tf.Tensor]:
        """The numbers of each update's examples: those measured, or a random batch of all."""
        generator = np.random.default_rng(training.seed)
        while training.batch == "full":
            yield tf.range(self._network.full_batch)
        while True:
            order = generator.permutation(self.num_examples).astype(np.int32)
            for begin in range(0, self.num_examples, self._network.mini_batch):
                yield tf.constant(order[begin : begin + self._network.mini_batch])


def assign(variables: list[Any], values: list[np.ndarray]) -> None:
    """Set variables to values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _functions(
    model: keras.Model, x: Any, y: np.ndarray, weights: np.ndarray | None
) -> tuple[Any, Any]:
    """Functions from numbers of examples to their loss, and to their loss and its gradient."""
    labels = tf.constant(y)
    weighting = None if weights is None else tf.constant(weights)
    signature = [tf.TensorSpec([None], tf.int32)]

    def loss_of(rows: tf.Tensor) -> tf.Tensor:
        inputs = tf.nest.map_structure(lambda part: tf.gather(part, rows), x)
        weight = None
        if weighting is not None:
            weight = tf.gather(weighting, rows)
            weight /= tf.reduce_sum(weight)
        outputs = model(inputs, training=True)
        return model.compute_loss(inputs, tf.gather(labels, rows), outputs, weight, training=True)

    @tf.function(input_signature=signature, autograph=False)
    def gradient(rows: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = loss_of(rows)
        parts = tape.gradient(loss, model.trainable_variables)
        return [loss, *(tf.convert_to_tensor(part) for part in parts)]

    return tf.function(loss_of, input_signature=signature, autograph=False), gradient


def _apply_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, previous: list[tf.Variable]
) -> Any:
    """Function that applies a gradient and returns its norm, the update's and its correlation."""

    @tf.function(autograph=False)
    def apply(gradient: list[tf.Tensor]) -> tf.Tensor:
        before = [tf.identity(v.value) for v in model.trainable_variables]
        optimizer.apply(gradient, model.trainable_variables)
        update = [v.value - b for v, b in zip(model.trainable_variables, before, strict=True)]
        last = [tf.identity(p) for p in previous]
        inner = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(update, last, strict=True)])
        size = tf.linalg.global_norm(update)
        correlation = inner / (size * tf.linalg.global_norm(last))
        for kept, part in zip(previous, update, strict=True):
            kept.assign(part)
        return tf.stack([tf.linalg.global_norm(gradient), size, correlation])

    return apply


def quietly(bench: Bench, training: Training) -> pd.DataFrame:
    """The updates of a training, without the warnings of measurements that do not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bench.run(training)
