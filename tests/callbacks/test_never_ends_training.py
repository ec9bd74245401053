"""Once training has begun, the monitor warns and never ends it."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos import AEoSMonitor, EdgeMeter, Eigensolver
from keras_aeos.curvature.linearisation import Linearisation
from tests.cases import build, fit_one

# Several warnings are expected where one is matched.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

X, Y = np.random.default_rng(0).standard_normal((2, 24, 4)).astype("f")
Y = Y[:, :3]


class Calls(layers.Layer):
    """Calls a function of TensorFlow."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def python_function(x):
    y = tf.py_function(lambda t: t * t, [x], x.dtype)
    return tf.ensure_shape(y, x.shape)


def network(middle, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = Calls(middle)(layers.Dense(4)(inputs)) if middle else inputs
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile(**{"optimizer": "adam", "loss": "mse"} | options)
    return model


def of_policy(name):
    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(name)
        try:
            return network(None)
        finally:
            keras.config.set_dtype_policy(before)

    return make


def own_function():
    class Own(keras.Model):
        def make_train_function(self, force=False):
            def function(iterator):
                return self.train_step(next(iterator))

            self.train_function = function

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile("adam", "mse")
    return model


def own_signature():
    """Makes its training function without Keras's argument `force`."""

    class Own(keras.Model):
        def make_train_function(self):
            self.train_function = lambda iterator: self.train_step(next(iterator))

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile("adam", "mse")
    return model


def one_parameter():
    inputs = keras.Input((4,))
    outputs = layers.Dense(1, use_bias=False)(layers.GlobalAveragePooling1D()(inputs[..., None]))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    return model


def without_optimizer():
    class Own(keras.Model):
        def train_step(self, data):
            return {"loss": tf.constant(0.0)}

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile(optimizer=None, loss="mse")
    return model


# name: (model, part of the warning; None if it is measured)
TRAINABLE = {
    "py_function": (lambda: network(python_function), "A measurement failed"),
    "straight-through": (
        lambda: network(lambda x: tf.quantization.fake_quant_with_min_max_args(x)),
        "A measurement failed",
    ),
    "stateful random": (lambda: network(lambda x: x + tf.random.normal([4])), "failed"),
    "pure bfloat16": (of_policy("bfloat16"), None),
    "own training function": (own_function, "no batch of `fit` has been seen"),
    "own signature": (own_signature, "no batch of `fit` has been seen"),
    "no optimizer": (without_optimizer, "optimizer"),
    "one parameter": (one_parameter, None),
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_what_trains_alone_trains_with_the_monitor(name, recwarn):
    make, warning = TRAINABLE[name]

    def train(callbacks):
        keras.utils.set_random_seed(1)
        model = make()
        model.fit(X, Y[:, : model.output_shape[-1]], batch_size=6, verbose=0, callbacks=callbacks)
        return [np.asarray(w, "float64") for w in model.get_weights()]

    watching = AEoSMonitor(update_freq=2, quantities=["sharpness", "trace"])
    for plain, watched in zip(train([]), train([watching]), strict=True):
        np.testing.assert_array_equal(watched, plain)
    said = [str(w.message) for w in recwarn if "keras_aeos" in w.filename]
    if warning is None:
        assert watching.history["sharpness"].notna().all()
        assert len(watching.history) == 2
    else:
        assert any(warning in text for text in said)
        assert len(said) == len(set(said))  # each once


def failing(monkeypatch, errors):
    """Raise these errors in the first linearisations."""
    stock, remaining = Linearisation.__init__, list(errors)

    def fail(self, *args):
        if remaining:
            raise remaining.pop(0)
        stock(self, *args)

    monkeypatch.setattr(Linearisation, "__init__", fail)


def test_row_that_failed_is_nan_and_the_next_is_tried_again(monkeypatch):
    failing(monkeypatch, [RuntimeError("lost device")])
    model, watching = network(None), AEoSMonitor(update_freq=2)
    with pytest.warns(UserWarning, match="next row is tried again.*RuntimeError: lost device"):
        model.fit(X, Y, batch_size=6, verbose=0, callbacks=[watching])
    assert watching.history["preconditioned_sharpness"].isna().tolist() == [True, False]
    assert watching.history["converged"].tolist() == [False, True]
    assert watching.history["step"].tolist() == [2, 4]


def test_after_three_failures_nothing_more_is_tried(monkeypatch):
    failing(monkeypatch, [RuntimeError("lost device")] * 3)
    model, watching = network(None), AEoSMonitor(update_freq=1)
    with pytest.warns(UserWarning, match="nothing more is measured.*lost device"):
        model.fit(X, Y, batch_size=6, verbose=0, callbacks=[watching])
    assert watching.history["preconditioned_sharpness"].isna().tolist() == [True] * 4


def test_interrupt_of_the_user_ends_the_training(monkeypatch):
    failing(monkeypatch, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        fit_one(network(None), X, Y, AEoSMonitor(update_freq=1))


@pytest.mark.parametrize(
    ("num_failures", "message"), [(1, "without kept values"), (3, "micro-batches of 4 rows")]
)
def test_measurement_that_ran_out_of_memory_is_repeated_in_less(monkeypatch, num_failures, message):
    expected = fit_one(network(None), X, Y, AEoSMonitor(update_freq=1))
    failing(monkeypatch, [tf.errors.ResourceExhaustedError(None, None, "OOM")] * num_failures)
    watching = AEoSMonitor(tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), update_freq=1)
    with pytest.warns(UserWarning, match=message):
        row = fit_one(network(None), X, Y, watching)
    assert row["preconditioned_sharpness"] == pytest.approx(
        expected["preconditioned_sharpness"], rel=1e-3
    )
    assert row["converged"]


def test_memory_that_suffices_for_no_example_is_a_row_of_nan(monkeypatch):
    failing(monkeypatch, [tf.errors.ResourceExhaustedError(None, None, "OOM")] * 9)
    watching = AEoSMonitor((X, Y), update_freq=1)
    with pytest.warns(UserWarning, match="tried again.*ResourceExhausted"):
        row = fit_one(network(None), X, Y, watching)
    assert np.isnan(row["preconditioned_sharpness"])


# ------------------------------------------------------------------------ short and odd fits


@pytest.mark.parametrize("options", [{}, {"update_freq": 100}])
@pytest.mark.parametrize("num_batches", [1, 3, 7])
def test_training_too_short_for_a_row_is_measured_at_its_end(num_batches, options):
    model, watching = network(None), AEoSMonitor(**options)
    with pytest.warns(UserWarning, match=f"ended after {num_batches} updates"):
        model.fit(X, Y, batch_size=3, steps_per_epoch=num_batches, verbose=0, callbacks=[watching])
    assert watching.history["step"].tolist() == [num_batches]
    assert watching.history["converged"].all()


def test_rows_of_which_none_converged_are_named():
    solver = Eigensolver(rtol=1e-6, max_hvps=2)
    watching = AEoSMonitor(solver=solver)
    with pytest.warns(UserWarning, match="None of the 1 rows of this `fit` has converged"):
        network(None).fit(X, Y, batch_size=2, verbose=0, callbacks=[watching])


class At(keras.callbacks.Callback):
    """Measures by hand, at one of the events."""

    def __init__(self, watching, event):
        super().__init__()
        setattr(self, event, lambda *_, **__: watching.measure())


@pytest.mark.parametrize("update_freq", ["auto", 100])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_end", "on_train_end"])
def test_measure_may_be_called_at_any_time(event, given, update_freq):
    watching = AEoSMonitor(
        (X, Y) if given else None, update_freq=update_freq, quantities=["sharpness"]
    )
    model = network(None)
    model.fit(X, Y, batch_size=6, epochs=2, verbose=0, callbacks=[watching, At(watching, event)])
    steps = watching.history["step"].tolist()
    at_begin = [0] if update_freq == 100 else [0, 8]
    assert (
        steps
        == {
            "on_train_begin": at_begin if given else [8],
            "on_epoch_end": [4, 8],
            "on_train_end": [8],
        }[event]
    )
    assert watching.history["sharpness"].notna().all()
    assert watching.history["edge_ratio"].isna().tolist() == [step == 0 for step in steps]


def test_measure_without_a_model_is_refused():
    with pytest.raises(ValueError, match=r"no model to measure.*Received: model=None"):
        AEoSMonitor((X, Y)).measure()


def test_loop_of_train_on_batch_is_measured():
    model, watching = network(None), AEoSMonitor(update_freq=2)
    callbacks = keras.callbacks.CallbackList([watching], model=model)
    callbacks.on_train_begin()
    for batch in range(6):
        callbacks.on_train_batch_begin(batch)
        model.train_on_batch(X, Y)
        callbacks.on_train_batch_end(batch)
    callbacks.on_train_end()
    assert watching.history["step"].tolist() == [2, 4, 6]


def test_evaluate_leaves_the_training_function_alone():
    model, watching = network(None), AEoSMonitor(update_freq=2)
    model.fit(X, Y, batch_size=6, verbose=0)
    function = model.train_function
    model.evaluate(X, Y, verbose=0, callbacks=[watching])
    assert model.train_function is function


def test_after_an_exception_no_monitor_listens():
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise ZeroDivisionError

    model, watching = network(None), AEoSMonitor(update_freq=5)
    with pytest.raises(ZeroDivisionError):
        model.fit(X, Y, batch_size=6, verbose=0, callbacks=[watching, Fail()])
    for _ in range(3):
        model.train_on_batch(X, Y)
    fit: Any = watching._fit
    assert len(fit.probe.batches) == 1
    assert not list(model.train_function._listeners)


def test_two_monitors_see_the_same_fit():
    model, x, y = build("dense", "adam")
    first, second = AEoSMonitor(update_freq=1), AEoSMonitor(update_freq=1, solver="power")
    third = AEoSMonitor((x, y), update_freq=1)
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[first, second, third])
    values = [m.history["preconditioned_sharpness"][0] for m in (first, second, third)]
    np.testing.assert_allclose(values, values[0], rtol=1e-2)
    assert len({m.log_dir for m in (first, second, third)}) == 3


def test_infinite_data_set_is_called_infinite():
    class Endless(keras.utils.PyDataset):
        @property
        def num_batches(self):
            return None

        def __getitem__(self, index):
            return X, Y

    with pytest.raises(ValueError, match=r"an infinite keras\.utils\.PyDataset"):
        EdgeMeter(network(None), Endless())


@pytest.mark.parametrize(
    "x", [tf.sparse.from_dense(X), tf.RaggedTensor.from_tensor(X)], ids=["sparse", "ragged"]
)
def test_sparse_arrays_are_refused_with_the_remedy(x):
    with pytest.raises(TypeError, match=r"as a tf\.data\.Dataset"):
        AEoSMonitor((x, Y))
