"""A small model whose every quantity can be computed by dense matrices."""

import keras
import numpy as np
from keras import layers

from tests.strategies import scope

RATE = 0.01
NUM_EXAMPLES = 12


def small_model(optimizer, strategy="none"):
    """15 parameters, fewer than the steps of a quadrature, and its data ``(model, x, y)``."""
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    with scope(strategy):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2, "tanh"), layers.Dense(3)])
        made = optimizer if isinstance(optimizer, str) else optimizer(RATE)
        model.compile(made, keras.losses.CategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(1)
    x = generator.standard_normal((NUM_EXAMPLES, 2))
    return model, x, np.eye(3)[generator.integers(0, 3, NUM_EXAMPLES)]
