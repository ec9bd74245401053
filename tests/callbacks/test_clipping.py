"""What clipping does to the step, against norms and updates worked out by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.optimizers import SGD, LossScaleOptimizer

from keras_aeos import AEoSMonitor
from keras_aeos.callbacks.clipping import Clipping
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.strategies import scope

# Gradients of a kernel and a bias in four micro-batches, of the norms 1, 5, 10 and 20.
GRADIENTS = [np.array(g) for g in ([0.6, 0.8, 0], [3, 0, 4], [-6, 0, 8], [0, 12, 16])]


def objective_of(optimizer, variables=None):
    """An `Objective` of three parameters, compiled with an optimizer that knows them."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    data = from_data((np.ones((2, 2), "float32"), np.ones((2, 1), "float32")))
    return Objective(model, data, variables=model.trainable_variables[:variables])


def clipping_of(optimizer):
    clipping = Clipping(objective_of(optimizer), optimizer)
    for gradient in GRADIENTS:
        clipping.visit(tf.constant(gradient, tf.float32), None)
    return clipping


# name: (optimizer's arguments, factors, whether directions are kept)
CASES: dict[str, tuple[dict[str, float], list[float], bool]] = {
    "none": ({}, [1, 1, 1, 1], True),
    "global norm": ({"global_clipnorm": 5.0}, [1, 1, 0.5, 0.25], True),
    "global norm, not reached": ({"global_clipnorm": 21.0}, [1, 1, 1, 1], True),
    "norm": ({"clipnorm": 3.0}, [1, 18**0.5 / 5, 18**0.5 / 10, 18**0.5 / 20], False),
    "norm, not reached": ({"clipnorm": 17.0}, [1, 1, 1, 1], True),
    "value": ({"clipvalue": 3.5}, [1, 21.25**0.5 / 5, 24.5**0.5 / 10, 24.5**0.5 / 20], False),
    # The means of pairs are (1.8, 0.4, 2) and (-3, 6, 12).
    "accumulated": (
        {"global_clipnorm": 2.0, "gradient_accumulation_steps": 2},
        [2 / 7.4**0.5, 2 / 189**0.5],
        True,
    ),
    "a rest": ({"gradient_accumulation_steps": 3}, [1], True),
    "none complete": ({"gradient_accumulation_steps": 5}, [], True),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_factors_are_the_shares_of_the_norms(name, scaled):
    settings, factors, keeps_direction = CASES[name]
    optimizer = SGD(0.1, **settings)
    clipping = clipping_of(LossScaleOptimizer(optimizer) if scaled else optimizer)
    assert clipping.factors == pytest.approx(factors, rel=1e-6)
    assert clipping.keeps_direction == keeps_direction
    if factors:
        assert clipping.factor == pytest.approx(np.mean(factors), rel=1e-6)
        assert clipping.frequency == np.mean([factor < 1 for factor in factors])


def test_zero_gradient_is_not_clipped():
    optimizer = SGD(0.1, global_clipnorm=1.0)
    clipping = Clipping(objective_of(optimizer), optimizer)
    clipping.visit(tf.zeros(3), None)
    assert (clipping.factor, clipping.frequency, clipping.keeps_direction) == (1.0, 0.0, True)


@pytest.mark.parametrize("case", ["other variables", "several replicas"])
def test_what_is_not_seen_is_missing(case):
    """Replicas clip their own parts; without all variables there is no norm of the gradient."""
    optimizer = SGD(0.1, global_clipnorm=0.1)
    if case == "several replicas":
        with scope("mirrored 2"):
            objective = objective_of(optimizer)
    else:
        objective = objective_of(optimizer, variables=1)
    clipping = Clipping(objective, optimizer)
    clipping.visit(tf.ones([objective.num_parameters]), None)
    assert math.isnan(clipping.factor)
    assert math.isnan(clipping.frequency)


@pytest.mark.filterwarnings("ignore:An approximation. .*clipping")
@pytest.mark.parametrize("by", ["global_clipnorm", "clipnorm"])
def test_step_that_clipping_holds_at_the_edge_has_a_ratio_of_one(by):
    """With ``f = λx²/2`` and the gradient clipped to c, x goes to and fro between ±ηc/2."""
    rate, limit, curvature = 0.1, 0.5, 50.0
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[2.5 * rate * limit]])
    model.compile(SGD(rate, **{by: limit}), "mse")
    x, y = np.full((2, 1), np.sqrt(curvature / 2.0), "float32"), np.zeros((2, 1), "float32")
    monitor = AEoSMonitor((x, y), update_freq=9, quantities=["clipping"])
    model.fit(x, y, batch_size=2, epochs=9, verbose=0, callbacks=[monitor])
    (row,) = monitor.history.iloc
    assert row.edge_ratio == pytest.approx(rate * curvature / 2.0, rel=1e-5)
    assert row.clipped_edge_ratio == pytest.approx(1.0, rel=1e-3)
    assert row.clipping_factor == pytest.approx(2.0 / (curvature * rate), rel=1e-3)
    assert row.clipping_frequency == 1.0


@pytest.mark.filterwarnings("ignore:An approximation. .*clipping")
def test_ratio_is_missing_where_clipping_turns_the_gradient():
    optimizer = SGD(0.1, clipvalue=0.1)
    model = objective_of(optimizer).model
    x, y = np.array([[1.0, 2.0]], "float32"), np.ones((1, 1), "float32")
    monitor = AEoSMonitor((x, y), update_freq=1, quantities=["clipping"])
    model.fit(x, y, batch_size=1, epochs=1, verbose=0, callbacks=[monitor])
    (row,) = monitor.history.iloc
    assert 0.0 < row.clipping_factor < 1.0
    assert math.isnan(row.clipped_edge_ratio)
