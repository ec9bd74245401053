"""Operations without exact second derivatives are refused, by name and with their layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.second_derivatives import refuse_inexact
from tests.cases import model_with

IMAGE = (4, 4, 4)


class ReadBack(layers.Layer):
    """Divides by a running scale that is updated first, as a Keras or a TensorFlow variable."""

    def __init__(self, keras_variable, **options):
        super().__init__(**options)
        self.keras_variable = keras_variable

    def build(self, shape):
        if self.keras_variable:
            self.scale = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False)
        else:
            self.scale = tf.Variable(tf.ones(shape[-1:]), trainable=False)

    def call(self, x):
        size = tf.reduce_mean(tf.square(x), range(x.shape.rank - 1))
        self.scale.assign(0.5 * self.scale + 0.5 * size)
        return x / self.scale


@tf.custom_gradient
def rounded(x):
    return tf.cast(tf.cast(100.0 * x, tf.int8), x.dtype) / 100.0, lambda upstream: upstream


def spread(x):
    return tf.raw_ops.Betainc(a=tf.square(x) + 1.0, b=tf.ones_like(x), x=tf.sigmoid(x))


REFUSED = {
    "response_normalisation": (tf.nn.local_response_normalization, "LRNGrad"),
    "fractional_pool": (
        lambda x: tf.nn.fractional_max_pool(x, 1.4, seed=1)[0],
        "FractionalMaxPool",
    ),
    "crop": (
        lambda x: tf.image.crop_and_resize(x, [[0.1, 0.1, 0.8, 0.9]] * 3, [0, 1, 2], (3, 3)),
        "CropAndResizeGradImage",
    ),
    "quantisation": (tf.quantization.fake_quant_with_min_max_args, "FakeQuantWithMinMaxArgs"),
    "quantisation_by_scale": (
        lambda x: tf.quantization.quantize_and_dequantize_v2(x, -2.0, 2.0, range_given=True),
        "QuantizeAndDequantizeV4",
    ),
    "rounding": (rounded, "Cast"),
    "rounding_past_the_gradient": (
        lambda x: x + tf.stop_gradient(tf.round(x) - x),
        "a straight-through estimate",
    ),
    "sign_past_the_gradient": (
        lambda x: keras.ops.stop_gradient(keras.ops.sign(x) - x) + x,
        "a straight-through estimate",
    ),
    "code_past_the_gradient": (
        lambda x: x - tf.stop_gradient(x - tf.gather([-1.0, 0.0, 1.0], tf.cast(x > 0.0, tf.int32))),
        "a straight-through estimate",
    ),
    "python": (
        lambda x: tf.ensure_shape(tf.py_function(tf.sin, [x], x.dtype), x.shape),
        "EagerPyFunc",
    ),
    "numpy": (
        lambda x: x + tf.ensure_shape(tf.numpy_function(np.sin, [x], x.dtype), x.shape),
        "PyFunc",
    ),
    "taken_for_constant": (lambda x: tf.image.hsv_to_rgb(tf.sigmoid(x[..., :3])), "HSVToRGB"),
    "one_argument_left_out": (spread, "Betainc"),
    "random": (lambda x: x + tf.random.normal(tf.shape(x)), "RandomStandardNormal"),
    "random_in_a_branch": (
        lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.nn.dropout(x, 0.5), lambda: x),
        "RandomUniform",
    ),
    "random_in_a_loop": (
        lambda x: tf.scan(lambda total, row: total + tf.nn.dropout(row, 0.5), x),
        "RandomUniform",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operations_are_named_with_their_layer(name):
    operation, kind = REFUSED[name]
    model, x, y = model_with(layers.Lambda(operation, name="my_layer_7"), IMAGE)
    message = rf"No exact Hessian: {kind}\w* in layer '{model.name}/my_layer_7.*'.*Received: "
    with pytest.raises(ValueError, match=message):
        Objective(model, from_data((x, y))).linearise()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x - tf.stop_gradient(tf.reduce_max(x)),
        lambda x: x + tf.stop_gradient(x),
        lambda x: x - tf.stop_gradient(1.0 - x),
        lambda x: x + tf.stop_gradient(x - 1.0),
    ],
)
def test_stopped_gradient_that_changes_no_direction_is_not_refused(operation):
    """Its meaning is up to the model; the check of second derivatives tells the wrong ones."""
    model, x, y = model_with(layers.Lambda(operation), (4,))
    assert np.isfinite(Objective(model, from_data((x, y))).linearise().loss)


def test_refused_loss_is_named():
    model = keras.Sequential([keras.Input((6, 4)), layers.Dense(4)])
    model.compile("sgd", keras.losses.CTC())
    data = np.ones((3, 6, 4), "f"), np.ones((3, 2), "int32")
    with pytest.raises(ValueError, match=r"No exact Hessian: .* in layer 'compile_loss/ctc"):
        Objective(model, from_data(data)).linearise()


@pytest.mark.parametrize("name", REFUSED)
def test_operations_before_the_parameters_are_refused_only_if_they_draw(name):
    operation, _ = REFUSED[name]
    model = keras.Sequential([keras.Input(IMAGE), layers.Lambda(operation), layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.ones((3, *IMAGE), "f")
    objective = Objective(model, from_data((x, model(x).numpy())))
    if name.startswith("random"):
        with pytest.raises(ValueError, match="draws new random numbers"):
            objective.linearise()
    else:
        assert np.isfinite(
            objective.linearise().hessian_product(tf.ones([objective.num_parameters]))
        ).all()


def test_function_traced_elsewhere_with_stock_moments_is_refused():
    elsewhere = tf.function(lambda x: tf.nn.moments(x, [0])[1]).get_concrete_function(
        tf.TensorSpec([3])
    )
    graph = tf.function(lambda x: 2.0 * elsewhere(x)).get_concrete_function(tf.zeros(3)).graph
    with pytest.raises(ValueError, match=r"tf\.nn\.moments .* traced before"):
        refuse_inexact(graph)


def test_what_no_output_depends_on_is_not_refused():
    def function(x):
        tf.debugging.check_numerics(tf.random.normal([3]), "noise")
        return 2.0 * x

    refuse_inexact(tf.function(function).get_concrete_function(tf.zeros(3)).graph)


@pytest.mark.parametrize("keras_variable", [True, False])
def test_state_that_is_read_back_is_refused(keras_variable):
    model, x, y = model_with(ReadBack(keras_variable, name="running"), (4,))
    with pytest.raises(ValueError, match=r"a state in layer '[^']*running.*(written|writes)"):
        Objective(model, from_data((x, y))).linearise()


def test_state_that_only_moves_on_is_not_refused():
    """A layer that is called twice updates its statistics twice, and reads them to do so."""
    norm = layers.BatchNormalization()
    inputs = keras.Input((4,))
    hidden = layers.Dense(4)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(norm(norm(hidden) ** 3)))
    model.compile("sgd", "mse")
    data = np.random.default_rng(0).standard_normal((2, 8, 4))
    assert np.isfinite(Objective(model, from_data((data[0], data[1][:, :2]))).linearise().loss)
