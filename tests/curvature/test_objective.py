import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.cases import (
    MODELS,
    build,
    dense_hessian,
    flat_parameters,
    training_gradient,
    two_outputs,
)
from tests.strategies import scope


def objective_of(model, x, y, *weights, batch_size=None):
    return Objective(model, from_data((x, y, *weights), batch_size))


def ones(objective):
    return tf.ones([objective.num_parameters], objective.dtype)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_training(name):
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    hessian = objective_of(model, x, y).linearise()
    loss, gradient = hessian.loss, hessian.gradient
    np.testing.assert_allclose(
        gradient, training_gradient(model, x, y)(flat_parameters(model)), rtol=1e-10, atol=1e-14
    )
    expected = float(model.compute_loss(tf.constant(x), y, model(tf.constant(x), training=True)))
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_hessian_product_is_that_of_differences_of_the_gradient(name):
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    objective = objective_of(model, x, y)
    hessian = dense_hessian(model, x, y)
    generator = np.random.default_rng(0)
    vector, scale = generator.standard_normal((2, objective.num_parameters))
    product = scale * objective.linearise().hessian_product(tf.constant(scale * vector))
    expected = scale * (hessian @ (scale * vector))
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


def stochastic():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            layers.GaussianNoise(0.3, seed=2),
            layers.Dense(3),
        ]
    )
    model.compile(keras.optimizers.Adam(), loss="mse", metrics=["mae"])
    generator = np.random.default_rng(0)
    return model, generator.standard_normal((12, 4)), generator.standard_normal((12, 3))


def test_evaluating_leaves_every_variable_alone():
    model, x, y = stochastic()
    model.fit(x, y, verbose=0)
    everything = model.variables + model.optimizer.variables + model.metrics_variables
    before = [v.numpy().copy() for v in everything]
    objective = objective_of(model, x, y, batch_size=5)
    objective.linearise().hessian_product(ones(objective))
    for variable, old in zip(everything, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)


def test_noise_is_fixed_until_the_seeds_move_and_differs_between_micro_batches():
    model, x, y = stochastic()
    x, y = np.tile(x[:4], (2, 1)), np.tile(y[:4], (2, 1))
    objective = objective_of(model, x, y, batch_size=4)
    first = objective.linearise().loss
    assert objective.linearise().loss == first
    one_batch = objective_of(model, x[:4], y[:4]).linearise().loss
    assert one_batch != pytest.approx(first, rel=1e-3)
    model(x, training=True)
    assert objective.linearise().loss != first


def test_products_with_noise_are_those_of_one_fixed_function():
    keras.config.set_floatx("float64")
    model, x, y = stochastic()
    objective = objective_of(model, x, y)
    point = flat_parameters(model)
    vector = np.random.default_rng(1).standard_normal(objective.num_parameters)

    def gradient(at):
        for variable, part in zip(
            objective.variables, objective.unpack(tf.constant(at)), strict=True
        ):
            variable.assign(part)
        return objective.linearise().gradient.numpy()

    step = 1e-5
    expected = (gradient(point + step * vector) - gradient(point - step * vector)) / (2 * step)
    gradient(point)
    product = objective.linearise().hessian_product(tf.constant(vector))
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


def test_one_trace_serves_every_micro_batch_and_every_measurement():
    model, x, y = build("dense")
    objective = objective_of(model, x, y, batch_size=5)
    assert objective.num_traces == 0
    for _ in range(3):
        objective.linearise().hessian_product(ones(objective))
        model.trainable_variables[0].assign_add(tf.ones_like(model.trainable_variables[0]))
    assert objective.num_traces == 1


def test_one_micro_batch_at_a_time_is_in_memory():
    """Batches are made when asked for, and gone when the next one is."""
    model, x, y = build("dense")
    made: list[weakref.ref] = []
    alive = []

    class Watched(keras.utils.PyDataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            batch = np.array(x, "f")
            alive.append(1 + sum(reference() is not None for reference in made))
            made.append(weakref.ref(batch))
            return batch, y

    objective = Objective(model, from_data(Watched()))
    objective.linearise().hessian_product(ones(objective))
    assert len(alive) == 40  # once for the structure, once for the product
    assert max(alive) <= 2


def test_dictionaries_of_inputs_and_weighted_losses():
    """The loss of several outputs, measured before any `fit`, is their weighted sum."""
    model, x, y = two_outputs("sgd")
    loss = objective_of(model, x, y, batch_size=5).linearise().loss
    predicted = model.predict(x, verbose=0)
    squared = np.mean((predicted["left"] - y["left"]) ** 2)
    p = predicted["right"]
    cross = -np.mean(y["right"] * np.log(p) + (1 - y["right"]) * np.log(1 - p))
    assert loss == pytest.approx(2.0 * squared + 0.5 * cross, rel=1e-5)


def test_sample_weights_scale_the_examples():
    model, x, y = build("dense", loss="squared_error")
    weights = np.linspace(0.0, 3.0, len(x))
    loss = objective_of(model, x, y, weights, batch_size=5).linearise().loss
    errors = np.mean((model.predict(x, verbose=0) - y) ** 2, axis=1)
    assert loss == pytest.approx(np.mean(weights * errors), rel=1e-5)


class WithAddedLoss(keras.Model):
    """A subclassed model with an added loss and its own `compute_loss`."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        y = self.dense(x)
        self.add_loss(0.1 * keras.ops.mean(y**2))
        return y

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training)


def test_subclassed_model_with_added_and_overridden_losses():
    model = WithAddedLoss()
    model.compile("sgd", loss="mse")
    x, y = np.ones((12, 4), "f"), np.zeros((12, 3), "f")
    predicted = model(x).numpy()
    loss = objective_of(model, x, y, batch_size=4).linearise().loss
    assert loss == pytest.approx(2.2 * np.mean(predicted**2), rel=1e-5)


def test_scope_of_a_strategy_does_not_scale_the_loss():
    model, x, y = build("regularised")
    expected = objective_of(model, x, y).linearise().loss
    with scope("mirrored 2"):
        assert objective_of(model, x, y).linearise().loss == pytest.approx(expected, rel=1e-6)
