"""Quantised layers are refused by name; low-rank adapters are measured."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.cases import build, dense_hessian, model_with

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")


def with_adapters(model):
    """The model with an adapter of rank 2 on each layer that takes one, away from its zeros."""
    generator = np.random.default_rng(4)
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(generator.integers(-8, 9, variable.shape) / 16.0)
    return model


def hessian_of(model, x, y):
    linearisation = Objective(model, from_data((x, y))).linearise()
    identity = tf.eye(len(linearisation.gradient), dtype=linearisation.gradient.dtype)
    return np.stack([linearisation.hessian_product(row).numpy() for row in identity])


@pytest.mark.parametrize(
    ("name", "mode", "adapters"),
    [
        ("dense", "int8", True),
        pytest.param("dense", "int8", False, marks=pytest.mark.slow),
        pytest.param("dense", "int4", False, marks=pytest.mark.slow),
        pytest.param("dense", "int4", True, marks=pytest.mark.slow),
        pytest.param("attention", "int8", False, marks=pytest.mark.slow),
    ],
)
def test_quantised_layers_are_refused(name, mode, adapters):
    model, x, y = build(name)
    model.quantize(mode)
    if adapters:
        with_adapters(model)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"No exact Hessian: (Round|Cast) in layer .*quantisation"):
        Objective(model, from_data((x, y))).linearise()


def test_float8_layers_are_refused():
    """The gradients of their scales are the next scales; taken for others they give 827 for 2."""
    model, x, y = build("dense")
    model.quantize("float8")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"float8 layers do.*Received: model='\w+' with 12 of"):
        Objective(model, from_data((x, y)))


@tf.custom_gradient
def through_float8(x):
    dtype = tf.dtypes.as_dtype(ml_dtypes.float8_e4m3fn)
    return tf.cast(tf.cast(x, dtype), x.dtype), lambda upstream: upstream


def test_straight_through_float8_is_refused():
    model, x, y = model_with(layers.Lambda(through_float8, name="mine"), (4,))
    with pytest.raises(ValueError, match=r"No exact Hessian: Cast in layer '[^']*mine"):
        Objective(model, from_data((x, y))).linearise()


@pytest.mark.parametrize("name", ["dense", "attention", "embedding", "convolutional"])
def test_adapters_are_measured(name):
    """Keras keeps adapters in float32: of these values a difference of 2⁻⁸ is exact."""
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    with_adapters(model)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    assert sum("lora" in v.path for v in model.trainable_variables) >= 4
    expected = dense_hessian(model, x, y, step=2.0**-8)
    np.testing.assert_allclose(
        hessian_of(model, x, y), expected, atol=2e-4 * np.abs(expected).max()
    )


def test_parameters_behind_quantised_layers_are_measured():
    """With three outputs and squared errors the Hessian of their biases is 2/3."""
    model, x, y = build("dense")
    model.layers[0].trainable = False
    model.layers[-1].quantize("int8")
    model.compile("sgd", "mse")
    np.testing.assert_allclose(hessian_of(model, x, y), np.eye(3) * 2.0 / 3.0, rtol=1e-5)
