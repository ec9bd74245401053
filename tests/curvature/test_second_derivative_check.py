"""The self-test of second derivatives: what it passes, what it names, what it leaves alone."""

import inspect
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos import check_second_derivatives
from tests.cases import build, model_with


class Wrong(layers.Layer):
    """A layer whose gradient isn't that of its values, or stops half-way."""

    def __init__(self, kind, **options):
        super().__init__(**options)
        self.kind = kind

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x):
        if self.kind == "stopped":
            return x * tf.stop_gradient(tf.tanh(x))
        if self.kind == "straight_through":
            return x + tf.stop_gradient(tf.round(4.0 * x) / 4.0 - x)

        @tf.custom_gradient
        def cube(x):
            factor = 2.9 if self.kind == "custom" else 3.0
            base = tf.stop_gradient(x) if self.kind == "stopped_in_custom" else x
            return x**3, lambda upstream: upstream * factor * base**2

        return cube(x)


WRONG = {
    kind: lambda kind=kind: Wrong(kind, name="at_fault")
    for kind in ("custom", "stopped", "stopped_in_custom", "straight_through")
} | {
    "renormalised": lambda: layers.BatchNormalization(renorm=True, name="at_fault"),
    "spectral": lambda: layers.SpectralNormalization(layers.Dense(3), name="at_fault"),
}


# The oldest supported Keras has no such option.
if "renorm" not in inspect.signature(layers.BatchNormalization).parameters:
    del WRONG["renormalised"]


@pytest.mark.parametrize("name", WRONG)
def test_check_names_the_layer_at_fault(name):
    model, x, y = model_with(WRONG[name](), (4,))
    with pytest.raises(ValueError, match=r"trains the model: '[^']*/at_fault' \(\w+\)\."):
        check_second_derivatives(model, (x, y))


def test_check_names_the_loss_at_fault():
    model, x, y = model_with(layers.ReLU(), (4,))
    model.compile("sgd", lambda y, p: tf.square(p - y) * tf.stop_gradient(tf.abs(p)))
    with pytest.raises(ValueError, match="trains the model: 'loss'"):
        check_second_derivatives(model, (x, y))


@pytest.mark.parametrize("name", ["convolutional", "batch_normalised", "attention", "embedding"])
def test_check_passes_the_models_of_the_table(name):
    model, x, y = build(name)
    result = check_second_derivatives(model, (x, y), batch_size=8)
    assert result.ok
    assert {part.status for part in result.parts} == {"exact"}
    assert f"{model.name}/{model.layers[0].name}" in str(result)


def test_check_leaves_everything_as_it_was():
    model, x, y = model_with(layers.Dropout(0.4), (4,))
    model.add(layers.BatchNormalization())
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, y, verbose=0)
    everything = model.variables + model.optimizer.variables + model.metrics_variables
    before = [v.numpy().copy() for v in everything]
    state, policy = random.getstate(), keras.config.dtype_policy()
    result = check_second_derivatives(model, (x, y))
    assert {part.status for part in result.parts} == {"exact"}
    assert random.getstate() == state
    assert keras.config.dtype_policy() is policy
    for variable, old in zip(everything, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)


def test_check_leaves_out_what_no_parameter_acts_on():
    """A gradient stopped before the first parameter, as in augmentation, does no harm."""
    model = keras.Sequential([keras.Input((4,)), Wrong("stopped"), layers.Dense(3)])
    model.compile("sgd", "mse")
    result = check_second_derivatives(model, (np.ones((3, 4)), np.ones((3, 3))))
    assert [part.kind for part in result.parts[:2]] == ["Dense", "Sequential"]


def test_check_says_what_draws_anew():
    noise = layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), name="noise")
    model, x, y = model_with(noise, (4,))
    with pytest.raises(ValueError, match=r"RandomStandardNormal in layer '[^']*/noise"):
        check_second_derivatives(model, (x, y))


def test_check_of_a_layer_that_float64_has_no_kernels_for():
    model, x, y = model_with(layers.Conv2D(4, 3, groups=2, name="grouped"), (4, 4, 4))
    parts = {part.kind: part for part in check_second_derivatives(model, (x, y)).parts}
    assert parts["Dense"].tolerance == 1e-6
    assert (parts["Conv2D"].status, parts["Conv2D"].tolerance) == ("exact", 1e-3)
