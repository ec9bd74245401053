"""The critical learning rate against closed forms and fine scans of the loss, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.critical_learning_rate import CriticalLearningRates
from keras_aeos.curvature.objective import Objective
from tests.cases import build, dense_hessian, flat, training_gradient
from tests.strategies import scope

RATE = 0.05
OPTIMIZERS = {
    name: getattr(keras.optimizers, name)
    for name in (
        *("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "Adafactor"),
        *("Nadam", "Ftrl", "Lion", "Lamb"),
    )
} | {
    "heavy ball": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "Nesterov": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "clipped": lambda rate: keras.optimizers.Adam(rate, clipnorm=1e-2),
    "ours": keras_aeos.optimizers.Adam,
}


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")


def linear_model(optimizer):
    """A model whose squared error is a quadratic of its parameters, and its data."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile(optimizer, "mse")
    generator = np.random.default_rng(0)
    return model, generator.standard_normal((8, 3)), generator.standard_normal((8, 2))


def state(model):
    """Everything that training changes, to the bit."""
    return [np.array(v.value) for v in (*model.variables, *model.optimizer.variables)]


def scan(loss, guess):
    """The smallest η at which the loss exceeds that at 0, at learning rates 0.5% apart."""
    start, eta = loss(0.0), 1e-3 * guess
    while loss(eta) <= start:
        eta *= 1.1
    eta /= 1.1
    while loss(eta) <= start:
        eta *= 1.005
    return eta


def loss_along(model, x, y, start, direction):
    """The training loss as a function of η, by Keras alone."""

    def loss(eta):
        for variable, value, d in zip(model.trainable_variables, start, direction, strict=True):
            variable.assign(value + eta * d)
        value = float(model.compute_loss(x, y, model(x, training=True)))
        for variable, before in zip(model.trainable_variables, start, strict=True):
            variable.assign(before)
        return value

    return loss


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_quadratic_it_has_a_closed_form_for_every_optimizer(name, float64):
    """``η_c = -2 gᵀd / dᵀHd`` for the update d that the optimizer then makes; 0 if it is uphill."""
    model, x, y = linear_model(OPTIMIZERS[name](RATE))
    model.train_on_batch(x, y)
    before = state(model)
    found = keras_aeos.critical_learning_rate(model, (x, y))
    assert all(map(np.array_equal, before, state(model)))

    hessian, point = dense_hessian(model, x, y), flat(model.trainable_variables)
    gradient = training_gradient(model, x, y)(point)
    model.train_on_batch(x, y)
    direction = (flat(model.trainable_variables) - point) / RATE
    expected = max(0.0, -2.0 * gradient @ direction / (direction @ hessian @ direction))
    # The Hessian is that of differences; updates of Keras have the precision of float32 scalars.
    assert found.value == pytest.approx(expected, rel=1e-4)
    if expected > 0.0:
        assert found.directional_sharpness == pytest.approx(2.0 / expected, rel=1e-4)
    assert found.converged


@pytest.mark.parametrize("name", ["convolutional", "batch_normalised"])
def test_on_a_network_it_is_that_of_a_fine_scan(name, float64):
    model, x, y = build(name, keras.optimizers.Adam(RATE))
    rates = CriticalLearningRates()
    model.fit(x, y, batch_size=len(x), epochs=2, verbose=0)
    start = [np.array(v.value) for v in model.trainable_variables]
    found = keras_aeos.critical_learning_rate(model, (x, y), batch_size=len(x))
    model.train_on_batch(x, y)
    direction = [
        (np.array(v.value) - s) / RATE
        for v, s in zip(model.trainable_variables, start, strict=True)
    ]
    objective = Objective(model, from_data((x, y), len(x)))
    of_update = rates.measure(objective, [tf.constant(s) for s in start], RATE)
    expected = scan(loss_along(model, x, y, start, direction), RATE)
    assert found.value == pytest.approx(expected, rel=0.03)
    assert of_update.value == pytest.approx(expected, rel=0.03)


def fake_quantised(x):
    return tf.quantization.fake_quant_with_min_max_args(x, -6.0, 6.0, num_bits=16)


def test_a_layer_without_second_derivatives_has_one():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh")])
    model.add(layers.Lambda(fake_quantised))
    model.add(layers.Dense(3))
    model.compile(keras.optimizers.SGD(RATE), "mse")
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((12, 4)), generator.standard_normal((12, 3))
    with pytest.raises(ValueError, match="FakeQuant"):
        keras_aeos.top_eigenpairs(model, (x, y))
    found = keras_aeos.critical_learning_rate(model, (x, y))
    start = [np.array(v.value) for v in model.trainable_variables]
    model.train_on_batch(x, y)
    direction = [
        (np.array(v.value) - s) / RATE
        for v, s in zip(model.trainable_variables, start, strict=True)
    ]
    # The update is known to 1e-5, by the rounding of the parameters in float32.
    expected = scan(loss_along(model, x, y, start, direction), RATE)
    assert found.value == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_half_precision_agrees_with_float32(policy):
    """To a tenth: products have 8 or 11 bits, and so have parameters in bfloat16."""

    def found(policy):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(policy)
        try:
            model, x, y = linear_model(keras.optimizers.SGD(RATE))
        finally:
            keras.config.set_dtype_policy("float32")
        return keras_aeos.critical_learning_rate(model, (x, y)).value

    assert found(policy) == pytest.approx(found("float32"), rel=0.1)


def test_dropout_and_augmentation_are_the_same_in_every_pass():
    """Otherwise the loss of one point would differ from call to call."""
    stack = [layers.GaussianNoise(1.0), layers.Dense(20, "relu"), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((4,)), *stack, layers.Dense(3)])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((12, 4)), generator.standard_normal((12, 3))
    before = state(model)
    first = keras_aeos.critical_learning_rate(model, (x, y), batch_size=5)
    assert first == keras_aeos.critical_learning_rate(model, (x, y), batch_size=5)
    assert 0.0 < first.value < np.inf
    assert all(map(np.array_equal, before, state(model)))


def test_replicas_share_the_passes(float64):
    model, x, y = build("dense")
    start = flat(model.trainable_variables)
    gradient = training_gradient(model, x, y)(start)
    with scope("mirrored 2"):
        mirrored, _, _ = build("dense")
    for variable, value in zip(mirrored.variables, model.variables, strict=True):
        variable.assign(value)
    values = []
    for each in (model, mirrored):
        objective = Objective(each, from_data((x, y), len(x)))
        direction = objective.unpack(tf.constant(-gradient))
        values.append(keras_aeos.critical_learning_rate(each, (x, y), direction).value)
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    both = [keras_aeos.critical_learning_rate(each, (x, y)).value for each in (model, mirrored)]
    assert both[1] == pytest.approx(both[0], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"direction": [np.ones((2, 2))]}, "one tensor per trainable variable"),
        ({"direction": [np.zeros((3, 2)), np.zeros(2)]}, "zero direction"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, match):
    model, x, y = linear_model("sgd")
    with pytest.raises(ValueError, match=f"{match}.*Received: "):
        keras_aeos.critical_learning_rate(model, (x, y), **arguments)
