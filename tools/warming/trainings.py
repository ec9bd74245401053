"""Trainings of one task with one optimizer, a warm-up of some kind and a cosine decay.

All have the same budget of gradients. What a warm-up spends beside the updates counts, and the
decay is one of gradients spent, so that it ends with the budget. A forward pass counts as a third
of a gradient.
"""

import functools
import math
import time
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_aeos
from keras_aeos.callbacks import learning_rate_cap
from tools.alarming.networks import NETWORKS
from tools.alarming.trainings import assign
from tools.warming.plan import CURVATURE, GI_ADAM, NUM_UPDATES, TASKS, Training

FORWARD = 1.0 / 3.0
# The callback measures on half a batch.
PART = 0.5
# Examples that are kept for testing.
NUM_TEST = 384
OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "AdamW": functools.partial(keras.optimizers.AdamW, weight_decay=0.1),
}


class WarmUpAndDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A cosine decay to zero, times a linear warm-up, below a limit; all may be set."""

    def __init__(self) -> None:
        self.target, self.warm_up, self.others, self.limit = (
            tf.Variable(0.0, trainable=False, dtype=tf.float32) for _ in range(4)
        )

    def set(self, target: float, warm_up: float) -> None:
        """Begin anew.

        Args:
            target: The largest learning rate.
            warm_up: Number of gradients in which it rises linearly.
        """
        for variable, value in (
            (self.target, target),
            (self.warm_up, warm_up),
            (self.others, 0.0),
            (self.limit, math.inf),
        ):
            variable.assign(value)

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate of the update after `step` updates."""
        spent = tf.cast(step, tf.float32) + self.others
        warming = tf.minimum((spent + 1.0) / tf.maximum(self.warm_up, 1.0), 1.0)
        decay = 0.5 + 0.5 * tf.cos(np.pi * tf.minimum(spent / NUM_UPDATES, 1.0))
        return tf.minimum(self.target * warming * decay, self.limit)

    def get_config(self) -> dict[str, Any]:
        """Empty: it is not saved."""
        return {}


def spent(history: pd.DataFrame) -> float:
    """What the measurements of a `CurvatureWarmup` cost, in gradients."""
    return PART * (len(history) + FORWARD * float(history["num_passes"].sum()))


class Bench:
    """A task with an optimizer, on which trainings are made, one after the other.

    Args:
        task: Name of the task.
        optimizer: Name of the optimizer.
    """

    def __init__(self, task: str, optimizer: str) -> None:
        name, self._full = TASKS[task]
        self._network = network = NETWORKS[name]
        self._schedule = WarmUpAndDecay()
        self._optimizer = OPTIMIZERS[optimizer](self._schedule)
        self.model = self._fresh(0)
        self.model.compile(self._optimizer, network.loss())
        self._optimizer.build(self.model.trainable_variables)
        self._new = [v.numpy() for v in self._optimizer.variables]
        self._initial: dict[int, list[np.ndarray]] = {}
        x, y, weights = network.examples()
        data = (x, y) if weights is None else (x, y, weights)
        self._train, self._test = (
            tf.nest.map_structure(lambda part, rows=rows: tf.constant(part[rows]), data)
            for rows in (slice(None, -NUM_TEST), slice(-NUM_TEST, None))
        )
        self._num_train = len(y) - NUM_TEST
        self._loop, self._evaluated = self._functions()

    def _fresh(self, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return self._network.build()

    def run(self, training: Training) -> pd.DataFrame:
        """The loss and learning rate of each update, and in every row what holds for them all."""
        began = time.perf_counter()
        self._begin(training)
        rows = self.rows(training.seed)
        first, _ = self._trained()
        warm_up = keras_aeos.CurvatureWarmup() if training.warm_up == CURVATURE else None
        if training.warm_up == GI_ADAM:
            self._start_from_gradient(rows[0])
        table = self._updates(rows, warm_up)
        (loss, _), (test_loss, accuracy) = self._trained(), self._evaluate(self._test)
        return table.assign(
            first_loss=first,
            final_loss=loss,
            test_loss=test_loss,
            test_accuracy=accuracy,
            others=float(self._schedule.others),
            num_measured=0 if warm_up is None else len(warm_up.history),
            seconds=time.perf_counter() - began,
        )

    def _updates(
        self, rows: np.ndarray, warm_up: keras_aeos.CurvatureWarmup | None
    ) -> pd.DataFrame:
        """Train until the budget is spent, up to a measurement at a time.

        The callback measures as in `fit`, after each update that it asks for.
        """
        schedule, cap = self._schedule, None
        if warm_up is not None:
            warm_up.set_model(self.model)
            cap = learning_rate_cap.cap_of(self._optimizer)
        parts, done = [], 0
        while True:
            budget = math.ceil(NUM_UPDATES - float(schedule.others))
            going = cap is not None and not cap.over
            end = min(cap.due, budget) if cap is not None and going else budget
            schedule.limit.assign(cap.limit if cap is not None and going else math.inf)
            if end > done:
                parts.append(self._loop(rows[done:end]).numpy())
                done = end
            schedule.limit.assign(math.inf)
            if warm_up is None or not going or done >= budget or not np.isfinite(parts[-1]).all():
                break
            warm_up.after_batch(
                keras.utils.unpack_x_y_sample_weight(self.batch(rows[done - 1])), {}
            )
            schedule.others.assign(spent(warm_up.history))
        losses, rates = np.concatenate(parts).T
        return pd.DataFrame(
            {"update": np.arange(1, len(losses) + 1), "loss": losses, "learning_rate": rates}
        )

    def _begin(self, training: Training) -> None:
        """Set all variables to their initial values."""
        if training.seed not in self._initial:
            values = [v.numpy() for v in self._fresh(training.seed).variables]
            self._initial[training.seed] = values
        assign(self.model.variables, self._initial[training.seed])
        assign(self._optimizer.variables, self._new)
        learning_rate_cap.forget(self._optimizer)
        share = training.warm_up if isinstance(training.warm_up, float) else 0.0
        self._schedule.set(training.target, share * NUM_UPDATES)

    def _start_from_gradient(self, rows: np.ndarray) -> None:
        """Begin with ν = g² of the first batch, at the cost of a gradient."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(self.batch(rows))
        saved = [v.numpy() for v in self.model.variables]
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(x, y, self.model(x, training=True), weights)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        for velocity, gradient in zip(self._optimizer._velocities, gradients, strict=True):
            velocity.assign(tf.square(tf.convert_to_tensor(gradient)))
        assign(self.model.variables, saved)
        self._schedule.others.assign(1.0)

    def rows(self, seed: int) -> np.ndarray:
        """The examples of each update: the same ones, or a random batch of all."""
        size = self._network.full_batch if self._full else self._network.mini_batch
        if self._full:
            return np.tile(np.arange(size, dtype=np.int32), (NUM_UPDATES, 1))
        generator = np.random.default_rng(seed)
        num_epochs = -(-NUM_UPDATES * size // self._num_train)
        order = [generator.permutation(self._num_train) for _ in range(num_epochs)]
        return np.concatenate(order)[: NUM_UPDATES * size].reshape(-1, size).astype(np.int32)

    def batch(self, rows: Any) -> Any:
        """Examples by their numbers, as `fit` takes them."""
        batch = tf.nest.map_structure(lambda part: tf.gather(part, rows), self._train)
        return batch if len(batch) == 2 else (*batch[:2], batch[2] / tf.reduce_sum(batch[2]))

    def _functions(self) -> tuple[Any, Any]:
        """Functions that make updates, and that evaluate loss and accuracy."""
        model, optimizer = self.model, self._optimizer

        def update(rows: tf.Tensor) -> tf.Tensor:
            x, y, weights = keras.utils.unpack_x_y_sample_weight(self.batch(rows))
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x, y, model(x, training=True), weights)
            gradients = tape.gradient(loss, model.trainable_variables)
            rate = tf.convert_to_tensor(optimizer.learning_rate)
            optimizer.apply(gradients, model.trainable_variables)
            return tf.stack([loss, rate])

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def loop(order: tf.Tensor) -> tf.Tensor:
            seen = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=(2,))
            going = True
            for i in tf.range(tf.shape(order)[0]):
                if going:
                    pair = update(order[i])
                    seen = seen.write(i, pair)
                    going = tf.math.is_finite(pair[0])
            return seen.stack()

        @tf.function
        def evaluated(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            outputs = model(x, training=False)
            right = tf.cast(tf.argmax(outputs, -1, y.dtype) == y, tf.float32)
            if weights is None:
                return model.compute_loss(x, y, outputs), tf.reduce_mean(right)
            weights /= tf.reduce_sum(weights)
            return model.compute_loss(x, y, outputs, weights), tf.reduce_sum(right * weights)

        return loop, evaluated

    def _trained(self) -> tuple[float, float]:
        """Loss and accuracy of the examples that are trained, without dropout and the like."""
        if not self._full:
            return self._evaluate(self._train)
        size = self._network.full_batch
        return self._evaluate(tf.nest.map_structure(lambda part: part[:size], self._train))

    def _evaluate(self, data: Any) -> tuple[float, float]:
        loss, accuracy = self._evaluated(data)
        return float(loss), float(accuracy)
