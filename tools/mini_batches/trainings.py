"""Trainings in mini-batches, measured by the monitor."""

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

import keras_aeos
from tools.benchmarking import trainings
from tools.mini_batches.plan import BETA, NUM_EXAMPLES, Training
from trainers import schema
from trainers.data import images

NUM_UPDATES, SPACING = 1200, 40
OF_ROW = (
    *("step", "loss", "preconditioned_sharpness", "preconditioned_batch_sharpness"),
    *("stability_threshold", "edge_ratio", "batch_edge_ratio", "curvature_noise", "converged"),
)
OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    "Adam": keras.optimizers.Adam,
    "AdamW": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
    "RMSprop": keras.optimizers.RMSprop,
    "SGD": keras.optimizers.SGD,
    "SGD with momentum": lambda rate: keras.optimizers.SGD(rate, momentum=BETA),
    "SGD with Nesterov": lambda rate: keras.optimizers.SGD(rate, momentum=BETA, nesterov=True),
}


def run(training: Training) -> pd.DataFrame:
    """The rows of a training, with `OF_ROW`, and whether it diverged.

    One that diverges before its first row has one all the same.
    """
    keras.utils.set_random_seed(0)
    model, x, y = NETWORKS[training.network]()
    letters = training.network == "transformer"
    model.compile(
        OPTIMIZERS[training.optimizer](training.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True) if letters else "mse",
    )
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0)
    with tempfile.TemporaryDirectory() as directory:
        monitor = keras_aeos.AEoSMonitor(
            (x, y),
            batch_size=training.batch_size,
            update_freq=SPACING,
            quantities=["preconditioned_batch_sharpness", "batch_edge_ratio"],
            solver=keras_aeos.Eigensolver(rtol=1e-2, max_hvps=60),
            log_dir=directory,
        )
        fitted = model.fit(
            batches.batch(training.batch_size, drop_remainder=True).repeat(),
            steps_per_epoch=NUM_UPDATES,
            shuffle=False,
            verbose=0,
            callbacks=[monitor, keras.callbacks.TerminateOnNaN()],
        )
    rows = monitor.history.reindex(columns=list(OF_ROW))
    if rows.empty:
        rows.loc[0, "step"] = 0
    for place, name in enumerate(("network", "optimizer", "learning_rate", "batch_size")):
        rows.insert(place, name, getattr(training, name))
    # The mean over the updates, also those between rows.
    return rows.assign(diverged=not np.isfinite(fitted.history["loss"][-1]))


def _of_digits(*stack: layers.Layer) -> tuple[Any, np.ndarray, np.ndarray]:
    examples, _ = images.load(schema.Data(name="digits", num_examples=NUM_EXAMPLES))
    model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10)])
    x = examples.inputs.reshape(NUM_EXAMPLES, -1)
    return model, x, np.eye(10, dtype=np.float32)[examples.labels]


def fully_connected() -> tuple[Any, np.ndarray, np.ndarray]:
    """Two hidden layers of 32 tanh units, on digits."""
    return _of_digits(layers.Dense(32, "tanh"), layers.Dense(32, "tanh"))


def convolutional() -> tuple[Any, np.ndarray, np.ndarray]:
    """Two convolutions with average pooling, on digits."""
    return _of_digits(
        layers.Reshape((8, 8, 1)),
        layers.Conv2D(8, 3, activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Conv2D(16, 2, activation="tanh"),
        layers.Flatten(),
    )


def transformer() -> tuple[Any, np.ndarray, np.ndarray]:
    """The small Transformer of the benchmark, on the letters of a text."""
    return trainings.transformer(NUM_EXAMPLES)


NETWORKS: dict[str, Callable[[], tuple[keras.Model, np.ndarray, np.ndarray]]] = {
    "fully connected": fully_connected,
    "convolutional": convolutional,
    "transformer": transformer,
}
