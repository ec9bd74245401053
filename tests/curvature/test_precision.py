"""Reduced precision is off while a curvature is computed, and as before afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos.curvature.loss_scaling import loss_scale
from keras_aeos.curvature.precision import full_precision

enabled = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(params=[True, False])
def before(request):
    stock = enabled()
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(stock)


def test_off_inside_and_restored_outside(before):
    with full_precision():
        assert not enabled()
        with full_precision():
            assert not enabled()
        assert not enabled()
    assert enabled() is before


def test_restored_after_an_exception(before):
    with pytest.raises(RuntimeError, match="inside"), full_precision():
        raise RuntimeError("inside")
    assert enabled() is before


def test_left_alone_if_allowed(before):
    keras_aeos.allow_reduced_precision()
    try:
        with full_precision():
            assert enabled() is before
    finally:
        keras_aeos.allow_reduced_precision(False)


def test_automatic_mixed_precision_is_off_inside():
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
    try:
        with full_precision():
            assert not tf.config.optimizer.get_experimental_options()["auto_mixed_precision"]
        assert tf.config.optimizer.get_experimental_options()["auto_mixed_precision"]
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False})


@pytest.mark.parametrize(
    "measure", [keras_aeos.top_eigenpairs, keras_aeos.check_second_derivatives]
)
def test_public_functions_run_in_full_precision(measure):
    seen = []

    def loss(y, p):
        seen.append(enabled())
        return keras.ops.mean(keras.ops.square(p - y))

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", loss)
    stock = enabled()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        measure(model, (np.ones((4, 2), "f"), np.zeros((4, 1), "f")))
        assert enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(stock)
    assert not seen[-1]


@pytest.mark.parametrize(("policy", "expected"), [("float32", None), ("mixed_float16", 2.0**15)])
def test_loss_scale_is_that_of_training(policy, expected):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, dtype=policy)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
        if policy == "mixed_float16"
        else "sgd",
        "mse",
    )
    model.optimizer.build(model.trainable_variables)
    assert loss_scale(model, tf.float32) == expected


def test_gradients_that_would_underflow_are_measured_as_in_float32():
    """Of a mean over many pixels, whose terms are below the smallest number of float16."""
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 1)).astype("f")
    y = np.zeros((2, 64, 64, 1), "f")

    def measured(policy):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((64, 64, 1))
        hidden = layers.Conv2D(4, 3, padding="same", activation="tanh", dtype=policy)(inputs)
        outputs = layers.Conv2D(1, 3, padding="same", dtype=policy)(hidden)
        model = keras.Model(inputs, layers.Activation("linear", dtype="float32")(outputs))
        optimizer = keras.optimizers.SGD(1e-3)
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
        model.compile(optimizer, keras.losses.MeanSquaredError())
        optimizer.build(model.trainable_variables)
        meter = keras_aeos.EdgeMeter(model, (x, 1e-3 * y))
        return meter.measure()

    half, single = measured("mixed_float16"), measured("float32")
    for column in ("sharpness", "gradient_norm_squared"):
        assert half[column] == pytest.approx(single[column], rel=2e-2)
