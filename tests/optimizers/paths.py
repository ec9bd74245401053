"""Paths of parameters under random gradients, and the optimizers once more in NumPy alone."""

import keras
import numpy as np
import tensorflow as tf

from tests.cases import SCHEDULE, SHAPES

RATE, DECAY, NUM_STEPS = 0.05, 0.1, 20


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
    """The learning rate of `tests.cases.schedule(RATE)` in an update, from 0."""
    return RATE * SCHEDULE["decay_rate"] ** (update / SCHEDULE["decay_steps"])


def root_mean_square(x):
    return np.sqrt(np.mean(x**2))


# Each takes one variable's start and gradients and returns its end; from the papers, without P.


def gradient_descent(x, gradients):
    for g in gradients:
        x = x - RATE * g
    return x


def heavy_ball(x, gradients, ema=False):
    m = 0.0
    for g in gradients:
        m = 0.9 * m + (0.1 if ema else 1.0) * g
        x = x - RATE * m
    return x


def nesterov(x, gradients, ema=False):
    m = 0.0
    for g in gradients:
        g = (0.1 if ema else 1.0) * g
        m = 0.9 * m + g
        x = x - RATE * (0.9 * m + g)
    return x


def rmsprop(x, gradients, beta=0.9, epsilon=0.0):
    nu = 0.0
    for g in gradients:
        nu = beta * nu + (1 - beta) * g**2
        x = x - RATE * g / (np.sqrt(nu) + epsilon)
    return x


def adagrad(x, gradients):
    nu = 0.0
    for g in gradients:
        nu = nu + g**2
        x = x - RATE * g / np.sqrt(nu)
    return x


def adam(x, gradients, beta_1=0.9, beta_2=0.999, epsilon=0.0, corrected=True, decay=0.0, power=0.5):
    m = nu = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta_1 * m + (1 - beta_1) * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        m_hat, nu_hat = m, nu
        if corrected:
            m_hat, nu_hat = m / (1 - beta_1**t), nu / (1 - beta_2**t)
        x = x - RATE * decay * x - RATE * m_hat / (nu_hat**power + epsilon)
    return x


def amsgrad(x, gradients, beta_2=0.9, epsilon=1e-7, corrected=False):
    m = nu = largest = 0.0
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        largest = np.maximum(largest, nu)
        m_hat, nu_hat = (m / (1 - 0.9**t), largest / (1 - beta_2**t)) if corrected else (m, largest)
        x = x - RATE * m_hat / (np.sqrt(nu_hat) + epsilon)
    return x


def nadam(x, gradients):
    m = nu = 0.0
    for g in gradients:
        m = 0.9 * m + 0.1 * g
        nu = 0.999 * nu + 0.001 * g**2
        x = x - RATE * (0.9 * m + 0.1 * g) / (np.sqrt(nu) + 1e-7)
    return x


def adafactor(x, gradients, beta=0.9, clip=np.inf, scaled=False):
    m = nu = rows = columns = 0.0
    for t, g in enumerate(gradients, 1):
        new = t**-0.8
        if g.ndim < 2:
            nu = (1 - new) * nu + new * g**2
        else:
            rows = (1 - new) * rows + new * (g**2).mean(-1)
            columns = (1 - new) * columns + new * (g**2).mean(-2)
            nu = np.einsum("...r,...c->...rc", rows, columns) / rows.mean(-1)[..., None, None]
        u = g / np.sqrt(nu)
        u = u / max(1.0, root_mean_square(u) / clip)
        u = u * max(1e-3, root_mean_square(x)) if scaled else u
        m = beta * m + (1 - beta) * u
        x = x - RATE * m
    return x


def frozen_adam(x, gradients, nu):
    return x - sum(
        RATE * (1 - 0.9 ** (len(gradients) - i)) * g for i, g in enumerate(gradients)
    ) / (np.sqrt(nu) + 1e-7)
