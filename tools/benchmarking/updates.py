"""The time of an optimizer's update, relative to that of the Keras optimizer of the same name."""

import statistics
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_aeos import optimizers
from tools.benchmarking.networks import fully_connected
from tools.benchmarking.timing import seconds

NUM_PAIRS, NUM_TRACING_PAIRS = 200, 10

# name: ours, and the Keras optimizer with the same settings
OPTIMIZERS: dict[str, tuple[Callable, Callable]] = {
    "GradientDescent / SGD": (optimizers.GradientDescent, keras.optimizers.SGD),
    "HeavyBall / SGD(momentum)": (
        optimizers.HeavyBall,
        lambda: keras.optimizers.SGD(momentum=0.9),
    ),
    "Nesterov / SGD(nesterov)": (
        optimizers.Nesterov,
        lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
    ),
    "RMSprop": (optimizers.RMSprop, keras.optimizers.RMSprop),
    "Adagrad": (optimizers.Adagrad, keras.optimizers.Adagrad),
    "Adam": (optimizers.Adam, keras.optimizers.Adam),
    "AdamW": (optimizers.AdamW, keras.optimizers.AdamW),
    "AMSGrad / Adam(amsgrad)": (
        lambda: optimizers.AMSGrad(bias_correction=True),
        lambda: keras.optimizers.Adam(amsgrad=True),
    ),
    "Nadam": (lambda: optimizers.Nadam(bias_correction=True), keras.optimizers.Nadam),
    "Adafactor": (
        lambda: optimizers.Adafactor(beta_1=0.0, clip_threshold=1.0, parameter_scaling=True),
        keras.optimizers.Adafactor,
    ),
}


FORMATS = {"update / stock update": "{:.2f}"}


def updates(name: str) -> dict[str, float]:
    """Measure an update of one of the optimizers, a key of `OPTIMIZERS`."""
    return {"update / stock update": compare(*OPTIMIZERS[name])}


def compare(ours: Callable, stock: Callable) -> float:
    """Median ratio of the times of an update, pair by pair, on the fully connected network."""
    generator = np.random.default_rng(0)
    shapes = [v.shape for v in fully_connected()[0].trainable_variables]
    gradients = [tf.constant(generator.standard_normal(s), tf.float32) for s in shapes]

    def updater(optimizer: keras.optimizers.Optimizer) -> Callable:
        variables = [keras.Variable(g) for g in gradients]
        optimizer.build(variables)
        return tf.function(lambda: optimizer.apply(gradients, variables))

    our_update, stock_update = updater(ours()), updater(stock())
    ratios = []
    for pair in range(NUM_PAIRS):
        if pair % 2:
            our_seconds = seconds(our_update)
            stock_seconds = seconds(stock_update)
        else:
            stock_seconds = seconds(stock_update)
            our_seconds = seconds(our_update)
        ratios.append(our_seconds / stock_seconds)
    return statistics.median(ratios[NUM_TRACING_PAIRS:])
