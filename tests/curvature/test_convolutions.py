"""Strided 1 × 1 convolutions: exact where a kernel of TensorFlow's is not."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature import convolutions
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective

SHAPE = (16, 16, 4)
LAYERS = {
    "strided": lambda **kw: layers.Conv2D(8, 1, strides=2, **kw),
    "same, by three": lambda **kw: layers.Conv2D(3, 1, strides=3, padding="same", **kw),
    "one axis": lambda **kw: layers.Conv2D(8, 1, strides=(1, 2), **kw),
    "transposed": lambda **kw: layers.Conv2DTranspose(5, 1, strides=2, **kw),
    "separable": lambda **kw: layers.SeparableConv2D(8, 1, strides=2, **kw),
}


def linearised(layer, dtype):
    """Loss, gradient and a product of a network with a layer amid others."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE, dtype=dtype),
            layers.Conv2D(4, 3, padding="same", activation="tanh", dtype=dtype),
            layer(activation="tanh", dtype=dtype),
            layers.Flatten(dtype=dtype),
            layers.Dense(2, dtype=dtype),
        ]
    )
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(0.3 * random.standard_normal(variable.shape))
    x, y = random.standard_normal((20, *SHAPE)), random.standard_normal((20, 2))
    model.compile("sgd", "mse")
    objective = Objective(model, from_data((x.astype(dtype), y.astype(dtype)), 20))
    vector = tf.constant(random.standard_normal(objective.num_parameters), objective.dtype)
    at = objective.linearise()
    return objective, at.gradient.numpy(), at.hessian_product(vector).numpy()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:TensorFlow may train this model with a wrong gradient")
def test_gradient_and_product_equal_those_in_float64(name):
    """The kernels of float64 are others, which are right."""
    _, gradient, product = linearised(LAYERS[name], "float32")
    _, true_gradient, true_product = linearised(LAYERS[name], "float64")
    for value, true in ((gradient, true_gradient), (product, true_product)):
        np.testing.assert_allclose(value, true, atol=1e-5 * np.abs(true).max())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:TensorFlow may train this model with a wrong gradient")
def test_faulty_kernel_is_not_used(name):
    """On any processor: none of its calls has filters of 1 × 1 and strides."""
    objective, *_ = linearised(LAYERS[name], "float32")
    graph = objective.parts._graph
    calls = [op for op in graph.get_operations() if op.type == "Conv2DBackpropFilter"]
    assert calls
    for call in calls:
        shape = tuple(call.outputs[0].shape)
        assert shape[:2] != (1, 1) or list(call.get_attr("strides")) == [1, 1, 1, 1]


@pytest.mark.parametrize("enabled", [True, False])
def test_user_is_told_that_training_may_be_wrong(enabled, monkeypatch):
    monkeypatch.setattr(convolutions._pywrap_util_port, "IsMklEnabled", lambda: enabled)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        linearised(LAYERS["strided"], "float32")
    assert len({str(warning.message) for warning in caught}) == enabled


def test_no_warning_for_what_the_kernel_can_do(monkeypatch):
    monkeypatch.setattr(convolutions._pywrap_util_port, "IsMklEnabled", lambda: True)
    linearised(lambda **kw: layers.Conv2D(8, 2, strides=2, **kw), "float32")
    linearised(LAYERS["strided"], "float64")
