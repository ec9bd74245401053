"""The self-test of second derivatives: what it passes, what it names, what it leaves alone."""

import inspect
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.random.seed_generator import global_seed_generator

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


class Unseeded(layers.Layer):
    """Draws from the generator that all layers without a seed share."""

    def call(self, x, training=False):
        return x * (1.0 + 0.3 * keras.random.normal(keras.ops.shape(x))) if training else x


class Counter(layers.Layer):
    """Keeps a TensorFlow variable that Keras knows nothing of."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return 2.0 * x


def test_check_leaves_generators_and_other_variables():
    keras.utils.set_random_seed(3)
    counter = Counter()
    model, x, y = model_with(Unseeded(), (4,))
    model.add(counter)
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)

    def draws():
        return float(keras.random.normal(())), float(tf.random.normal(())), np.random.rand()  # noqa: NPY002

    def state():
        return global_seed_generator().state.numpy().tolist(), float(counter.calls)

    before = state()
    result = check_second_derivatives(model, (x, y))
    assert state() == before
    assert result.parts[-1].name == "training step"
    assert result.parts[-1].status == "exact"
    after = draws()
    keras.utils.set_random_seed(3)
    model, x, y = model_with(Unseeded(), (4,))
    model.add(Counter())
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    assert draws() == after


class OwnLoss(keras.Model):
    """Descends another loss than the compiled one."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(self(x, training=True) - y) ** 3)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_check_compares_with_the_training_step():
    model = OwnLoss()
    model.compile("adam", "mse")
    x, y = np.random.default_rng(0).standard_normal((2, 8, 3)).astype("float32")
    model(x)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"trains the model: 'training step' \(OwnLoss\)\."):
        check_second_derivatives(model, (x, y))
    np.testing.assert_equal(model.get_weights(), before)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_training_step_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    model, x, y = model_with(layers.Activation("tanh"), (4,))
    assert check_second_derivatives(model, (x, y)).parts[-1].status == "exact"


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_check_of_a_stateful_layer_with_a_fixed_batch(layer):
    model = keras.Sequential(
        [keras.Input(batch_shape=(12, 4, 3)), layer(4, stateful=True), layers.Dense(3)]
    )
    model.compile("adam", "mse")
    generator = np.random.default_rng(0)
    data = generator.standard_normal((12, 4, 3)), generator.standard_normal((12, 3))
    parts = check_second_derivatives(model, data).parts
    assert {part.status for part in parts} == {"exact"}
    assert not np.any(model.layers[0].states[0].numpy())


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
