"""Paths of parameters under random gradients."""

import keras
import numpy as np
import tensorflow as tf

from tests.optimizers.cases import RATE, SCHEDULE, SHAPES

NUM_STEPS = 20


def random_path(optimizer, num_steps=NUM_STEPS, dtype="float64"):
    """Apply random gradients; after each update yield all parameters and gradients so far.

    Each is a list of one list of arrays, one per variable, for each step.
    """
    generator = np.random.default_rng(3)
    variables = [keras.Variable(generator.standard_normal(s), dtype=dtype) for s in SHAPES]
    parameters, gradients = [[v.numpy() for v in variables]], []
    for _ in range(num_steps):
        gradient = [generator.standard_normal(s).astype(dtype) for s in SHAPES]
        optimizer.apply([tf.constant(g) for g in gradient], variables)
        gradients.append(gradient)
        parameters.append([v.numpy() for v in variables])
        yield parameters, gradients


def final(optimizer, **options):
    """Parameters after the last update."""
    *_, (parameters, _) = random_path(optimizer, **options)
    return parameters[-1]


def scheduled_rate(update):
    """The learning rate of `tests.optimizers.cases.schedule(RATE)` in an update, from 0."""
    return RATE * SCHEDULE["decay_rate"] ** (update / SCHEDULE["decay_steps"])
