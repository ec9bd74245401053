"""Second derivatives against central differences of the gradient, layer by layer, in float64."""

import contextlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.second_derivatives import exact_second_derivatives
from tests.cases import SelfAttention, flat_parameters, model_with, training_gradient
from tests.curvature.layers_of_users import Normalised, Residual, Traced

SIGNAL, IMAGE, VOLUME = (5, 4), (4, 4, 4), (4, 4, 4, 2)


def rematerialised():
    with keras.RematScope(mode="activations"):
        return layers.Dense(3, "tanh")


def of_signal(call):
    x = keras.Input(SIGNAL)
    return keras.Model(x, call(x))


# name: (layer, shape of an example); the layer's inputs depend on parameters
LAYERS = {
    "activation_elu": (lambda: layers.ELU(), SIGNAL),
    "activation_gelu": (lambda: layers.Activation("gelu"), SIGNAL),
    "activation_leaky_relu": (lambda: layers.LeakyReLU(), SIGNAL),
    "activation_log_softmax": (lambda: layers.Activation("log_softmax"), SIGNAL),
    "activation_mish": (lambda: layers.Activation("mish"), SIGNAL),
    "activation_relu": (lambda: layers.ReLU(), SIGNAL),
    "activation_selu": (lambda: layers.Activation("selu"), SIGNAL),
    "activation_silu": (lambda: layers.Activation("silu"), SIGNAL),
    "activation_softplus": (lambda: layers.Activation("softplus"), SIGNAL),
    "activation_softsign": (lambda: layers.Activation("softsign"), SIGNAL),
    "prelu": (lambda: layers.PReLU(alpha_initializer="ones"), SIGNAL),
    "dense": (lambda: layers.Dense(3, "sigmoid"), SIGNAL),
    "einsum_dense": (lambda: layers.EinsumDense("abc,cd->abd", (5, 3)), SIGNAL),
    "rematerialised": (rematerialised, SIGNAL),
    "conv_1d": (lambda: layers.Conv1D(3, 2, padding="causal", dilation_rate=2), SIGNAL),
    "conv_2d": (lambda: layers.Conv2D(3, 3, 2, padding="same"), IMAGE),
    "conv_3d": (lambda: layers.Conv3D(2, 2), VOLUME),
    "conv_1d_transposed": (lambda: layers.Conv1DTranspose(3, 2, 2), SIGNAL),
    "conv_2d_transposed": (lambda: layers.Conv2DTranspose(3, 3, 2), IMAGE),
    "conv_3d_transposed": (lambda: layers.Conv3DTranspose(2, 2), VOLUME),
    "conv_depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "conv_separable": (lambda: layers.SeparableConv2D(3, 2), IMAGE),
    "max_pool_1d": (lambda: layers.MaxPooling1D(2), SIGNAL),
    "max_pool_2d_strided": (lambda: layers.MaxPooling2D(2), IMAGE),
    "max_pool_2d": (lambda: layers.MaxPooling2D(3, 1, padding="same"), IMAGE),
    "max_pool_2d_of_one": (lambda: layers.MaxPooling2D(1), IMAGE),
    "max_pool_2d_of_a_pixel": (lambda: layers.MaxPooling2D(2, padding="same"), (1, 1, 4)),
    "max_pool_2d_of_a_row": (lambda: layers.MaxPooling2D(3, (1, 2), padding="same"), (5, 1, 4)),
    "max_pool_1d_of_one": (lambda: layers.MaxPooling1D(2, padding="same"), (1, 4)),
    "max_pool_padded": (
        lambda: layers.Lambda(
            lambda x: tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [0, 1], [0, 0]])
        ),
        IMAGE,
    ),
    "average_pool_1d": (lambda: layers.AveragePooling1D(2), SIGNAL),
    "average_pool_2d": (lambda: layers.AveragePooling2D(3, 1, padding="same"), IMAGE),
    "global_max_pool": (lambda: layers.GlobalMaxPooling2D(), IMAGE),
    "batch_norm": (lambda: layers.BatchNormalization(), IMAGE),
    "layer_norm": (lambda: layers.LayerNormalization(), SIGNAL),
    "rms_norm": (lambda: layers.RMSNormalization(), SIGNAL),
    "group_norm": (lambda: layers.GroupNormalization(2), IMAGE),
    "unit_norm": (lambda: layers.UnitNormalization(), SIGNAL),
    "users_norm": (lambda: Normalised(), SIGNAL),
    "users_function": (lambda: Traced(), IMAGE),
    "lambda_of_moments": (lambda: layers.Lambda(lambda x: x * tf.nn.moments(x, 0)[1]), SIGNAL),
    "residual": (lambda: Residual(), SIGNAL),
    "lstm": (lambda: layers.LSTM(2), SIGNAL),
    "gru": (lambda: layers.GRU(2), SIGNAL),
    "simple_rnn": (lambda: layers.SimpleRNN(2), SIGNAL),
    "lstm_unrolled": (lambda: layers.LSTM(2, unroll=True), (2, 4)),
    "bidirectional": (lambda: layers.Bidirectional(layers.SimpleRNN(2, unroll=True)), (3, 2)),
    "conv_lstm": (lambda: layers.ConvLSTM1D(1, 2, unroll=True), (2, 3, 2)),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Dense(3, "tanh")), SIGNAL),
    "attention": (lambda: of_signal(lambda x: layers.Attention(True)([x, x])), SIGNAL),
    "additive_attention": (lambda: of_signal(lambda x: layers.AdditiveAttention()([x, x])), SIGNAL),
    "group_query_attention": (
        lambda: of_signal(lambda x: layers.GroupQueryAttention(2, 2, 1)(x, x)),
        SIGNAL,
    ),
    "self_attention": (SelfAttention, SIGNAL),
    "up_sampling_nearest": (lambda: layers.UpSampling2D(2), IMAGE),
    "resizing_nearest": (lambda: layers.Resizing(3, 5, interpolation="nearest"), IMAGE),
    "dropout": (lambda: layers.Dropout(0.4, seed=1), SIGNAL),
    "spatial_dropout": (lambda: layers.SpatialDropout1D(0.4, seed=1), SIGNAL),
    "gaussian_noise": (lambda: layers.GaussianNoise(0.2, seed=1), SIGNAL),
}
# TensorFlow has these on a CPU in float32 alone.
IN_FLOAT32 = {
    "conv_2d_grouped": (lambda: layers.Conv2D(4, 3, groups=2), IMAGE),
    "max_pool_3d_same": (lambda: layers.MaxPooling3D(2, 1, padding="same"), VOLUME),
    "max_pool_3d_of_one": (lambda: layers.MaxPooling3D(1), VOLUME),
    "max_pool_3d_of_a_pixel": (lambda: layers.MaxPooling3D(2, padding="same"), (1, 1, 1, 2)),
    "max_pool_3d": (lambda: layers.MaxPooling3D(2), VOLUME),
    "average_pool_3d": (lambda: layers.AveragePooling3D(2), VOLUME),
    "up_sampling_bilinear": (lambda: layers.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    "up_sampling_bicubic": (lambda: layers.UpSampling2D(2, interpolation="bicubic"), IMAGE),
    "resizing_antialiased": (lambda: layers.Resizing(3, 3, antialias=True), IMAGE),
    "resizing_lanczos": (lambda: layers.Resizing(5, 7, interpolation="lanczos3"), IMAGE),
}
# The oldest supported Keras has no such layers.
if not hasattr(keras, "RematScope"):
    del LAYERS["rematerialised"], LAYERS["rms_norm"]
if "antialias" not in inspect.signature(layers.Resizing).parameters:
    del IN_FLOAT32["resizing_antialiased"]


def product_and_difference(model, x, y, *, step):
    """H v by `Objective`, and by central differences of fourth order of the training gradient."""
    objective = Objective(model, from_data((x, y)))
    vector = np.random.default_rng(4).standard_normal(objective.num_parameters)
    product = objective.linearise().hessian_product(tf.constant(vector, objective.dtype)).numpy()
    point, gradient = flat_parameters(model), seeded_gradient(model, x, y)
    near = gradient(point + step * vector) - gradient(point - step * vector)
    far = gradient(point + 2 * step * vector) - gradient(point - 2 * step * vector)
    return product, (8.0 * near - far) / (12.0 * step)


def seeded_gradient(model, x, y):
    """`training_gradient`, with the seeds set back before each evaluation."""
    gradient = training_gradient(model, x, y)
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    states = [v.numpy() for v in seeds]

    def at(point):
        for variable, state in zip(seeds, states, strict=True):
            variable.assign(state)
        return gradient(point)

    return at


@pytest.mark.parametrize("name", LAYERS)
def test_product_is_that_of_differences_of_the_gradient(name):
    keras.config.set_floatx("float64")
    make, shape = LAYERS[name]
    model, x, y = model_with(make(), shape)
    product, expected = product_and_difference(model, x, y, step=1e-5)
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_product_in_single_precision(name):
    make, shape = IN_FLOAT32[name]
    model, x, y = model_with(make(), shape)
    product, expected = product_and_difference(model, x, y, step=3e-3)
    # rounding of the differences, ε/step
    assert np.linalg.norm(product - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(None, 4, 4, 2), (None, None, None, 2)])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_max_pooling_of_unknown_shapes(shape, strides, size):
    """The shapes agree or not only when the function runs."""
    function = cubed(lambda x: tf.nn.max_pool2d(tf.tanh(x), 2, strides, "SAME"))
    specs = [tf.TensorSpec(shape if size == 4 else (None,) * 3 + (2,), tf.float64)] * 2
    product = differentiated(function, exact=True).get_concrete_function(*specs)
    x, v = tf.constant(np.random.default_rng(0).standard_normal((2, 3, size, size, 2)))
    _, ours = product(x, v)
    near, far = (product(x + h * v, v)[0] - product(x - h * v, v)[0] for h in (1e-5, 2e-5))
    expected = (8.0 * near - far) / 12e-5
    assert np.linalg.norm(ours - expected) <= 1e-6 * np.linalg.norm(expected)


def test_loss_of_which_some_rows_have_no_term():
    """In `Circle`, a label without a partner leaves a logsumexp of -inf alone."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.UnitNormalization()])
    model.compile("sgd", keras.losses.Circle(gamma=2.0))
    x = np.random.default_rng(0).standard_normal((8, 4))
    y = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    product, expected = product_and_difference(model, x, y, step=1e-5)
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, [0, 1], -1])
def test_exact_logsumexp_has_the_values_of_the_stock_one(axis, keepdims):
    x = np.random.default_rng(0).standard_normal((3, 4)) * 400.0
    x[1], x[2, 0] = -np.inf, np.inf
    stock = tf.reduce_logsumexp(x, axis, keepdims=keepdims)
    with exact_second_derivatives():
        exact = tf.math.reduce_logsumexp(x, axis, keepdims=keepdims)
    np.testing.assert_array_equal(exact, stock)


def test_recurrent_layers_of_unknown_lengths():
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((None, 4)), layers.SimpleRNN(2), layers.Dense(2)])
    model.compile("sgd", "mse")
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal((4, 5, 4)), generator.standard_normal((4, 2))
    signature = tf.TensorSpec((None, None, 4), tf.float64), tf.TensorSpec((None, 2), tf.float64)
    dataset = tf.data.Dataset.from_generator(lambda: iter([(x, y)]), output_signature=signature)
    objective = Objective(model, from_data(dataset))
    vector = np.random.default_rng(4).standard_normal(objective.num_parameters)
    product = objective.linearise().hessian_product(tf.constant(vector)).numpy()
    gradient, point = training_gradient(model, x, y), flat_parameters(model)
    expected = (gradient(point + 1e-5 * vector) - gradient(point - 1e-5 * vector)) / 2e-5
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


def test_model_compiled_by_xla_is_measured():
    """XLA has no second derivative of max pooling; the measurement isn't compiled."""
    keras.config.set_floatx("float64")
    model, x, y = model_with(layers.MaxPooling2D(2), IMAGE, jit_compile=True)
    model.fit(x, y, verbose=0)
    product, expected = product_and_difference(model, x, y, step=1e-5)
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)


def differentiated(function, exact):
    """The function (x, v) -> (gradient, Hessian times v), traced as a measurement is, or not."""

    @tf.function(autograph=False)
    def both(x, v):
        with exact_second_derivatives() if exact else contextlib.nullcontext():
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    value = function(x)
                gradient = inner.gradient(value, x)
            return gradient, outer.gradient(gradient, x, v, unconnected_gradients="zero")

    return both


def cubed(operation):
    return lambda x: tf.reduce_sum(tf.cast(operation(x), x.dtype) ** 3)


def cross_entropy_of_both(x):
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x), tf.sin(2.0 * x))


# name: (function, whether stock TensorFlow says that it can't)
CORRECTED = {
    "max_pool": (cubed(lambda x: tf.nn.max_pool2d(tf.tanh(x), 3, 1, "SAME")), False),
    "moments": (cubed(lambda x: tf.nn.moments(x, [1])[1]), False),
    "bilinear": (cubed(lambda x: tf.image.resize(x, (3, 5))), False),
    "labels": (cubed(cross_entropy_of_both), False),
    "nearest": (cubed(lambda x: tf.image.resize(x, (3, 5), "nearest")), True),
    "bicubic": (cubed(lambda x: tf.image.resize(x, (3, 5), "bicubic")), True),
    "antialiased": (cubed(lambda x: tf.image.resize(x, (2, 2), antialias=True)), True),
    "softsign": (cubed(tf.nn.softsign), True),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_operations(name):
    """Same gradient as stock, the right Hessian; the stock one is missing, or off by percents."""
    function, missing = CORRECTED[name]
    generator = np.random.default_rng(0)
    x, v = tf.constant(generator.standard_normal((2, 2, 4, 4, 3)), tf.float32)
    gradient, product = differentiated(function, exact=True)(x, v)
    step = 1e-3
    stock = differentiated(function, exact=False)
    if missing:
        with pytest.raises(LookupError):
            stock(x, v)
    else:
        assert np.linalg.norm(stock(x, v)[1] - product) > 2e-2 * np.linalg.norm(product)

    @tf.function(autograph=False)
    def stock_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    np.testing.assert_allclose(gradient, stock_gradient(x), rtol=1e-4, atol=1e-5)
    near = stock_gradient(x + step * v) - stock_gradient(x - step * v)
    far = stock_gradient(x + 2 * step * v) - stock_gradient(x - 2 * step * v)
    difference = (8.0 * near - far) / (12.0 * step)
    # float32: ε/step of the differences
    assert np.linalg.norm(product - difference) <= 1e-3 * np.linalg.norm(product)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0], [0, 2], [-1]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_exact_moments_have_the_values_of_the_stock_ones(dtype, axes, keepdims):
    x = tf.constant(np.random.default_rng(0).standard_normal((5, 4, 3)), dtype)
    stock = tf.nn.moments(x, axes, keepdims=keepdims)
    with exact_second_derivatives():
        exact = tf.nn.moments(x, axes, keepdims=keepdims)
    for ours, theirs in zip(exact, stock, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-3 if dtype == "float16" else 1e-6)
