"""What can't be measured, or only in part, and how the monitor says so."""

import re
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor, Eigensolver
from tests.cases import build, dense_hessian, fit_one, flat

RATE = 0.01


def num_matching(caught, pattern):
    return sum(re.search(pattern, str(warning.message)) is not None for warning in caught)


def test_unknown_optimizer_is_said_once_and_the_raw_sharpness_measured():
    model, x, y = build("dense", keras.optimizers.Lion(1e-3))
    monitor = AEoSMonitor(update_freq=1)
    with warnings.catch_warnings(record=True, action="always") as caught:
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])
    assert num_matching(caught, r"Only the raw sharpness.*optimizer=Lion") == 1
    missing = ["preconditioned_sharpness", "stability_threshold", "edge_ratio"]
    assert monitor.history[missing].isna().all(axis=None)
    assert (monitor.history["sharpness"] > 0).all()
    assert monitor.history["converged"].all()
    assert not monitor.history["exact"].any()


def test_approximation_is_named_once_and_marked_in_every_row():
    model, x, y = build("dense", keras.optimizers.Adadelta(1e-3))
    monitor = AEoSMonitor(update_freq=1)
    with warnings.catch_warnings(record=True, action="always") as caught:
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])
    assert num_matching(caught, r"An approximation: P of Adadelta") == 1
    assert (monitor.history["edge_ratio"] > 0).all()
    assert not monitor.history["exact"].any()


@pytest.mark.parametrize(
    "make",
    [
        keras_aeos.optimizers.Nadam,
        keras_aeos.optimizers.Adafactor,
        keras.optimizers.Nadam,
        keras.optimizers.Lamb,
        keras.optimizers.Ftrl,
    ],
)
def test_edge_ratio_is_that_of_the_dense_hessian_for_other_optimizers(make):
    keras.config.set_floatx("float64")
    model, x, y = build("dense", make(RATE))
    model.fit(x, y, batch_size=len(x), epochs=2, verbose=0)
    row = fit_one(model, x, y, AEoSMonitor((x, y), update_freq=1, solver=Eigensolver(rtol=1e-4)))
    p = flat(keras_aeos.preconditioner(model.optimizer))
    [*_, top] = np.linalg.eigvalsh(dense_hessian(model, x, y) / np.sqrt(np.outer(p, p)))
    assert row["preconditioned_sharpness"] == pytest.approx(top, rel=1e-5)
    threshold = keras_aeos.stability_threshold(model.optimizer)
    assert row["edge_ratio"] == pytest.approx(top / threshold, rel=1e-5)
    assert row["exact"]


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_several_optimizers_in_one_are_measured_together():
    adam, sgd = keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2)
    optimizer = keras.optimizers.MultiOptimizer(lambda v: adam if len(v.shape) > 1 else sgd)
    model, x, y = build("dense", optimizer)
    row = fit_one(model, x, y, AEoSMonitor(update_freq=1))
    assert row["learning_rate"] == pytest.approx(1e-3, rel=1e-6)
    assert row["stability_threshold"] == pytest.approx(38e3, rel=1e-6)
    assert row["edge_ratio"] > 0


def test_freezing_is_seen_from_the_next_row_on():
    model, x, y = build("dense", keras_aeos.optimizers.Adam(RATE))
    monitor = AEoSMonitor((x, y), update_freq=1)
    freeze = keras_aeos.FreezePreconditioner(2)
    model.fit(x, y, batch_size=len(x), epochs=4, verbose=0, callbacks=[monitor, freeze])
    first, second, third, fourth = monitor.history["preconditioner_norm_squared"]
    assert first != second
    assert second == third == fourth


def test_unconverged_values_are_logged_as_such_and_warned_about_once():
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor(update_freq=1, solver=Eigensolver(max_hvps=2, rtol=1e-6))
    with warnings.catch_warnings(record=True, action="always") as caught:
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])
    assert num_matching(caught, "did not converge to rtol=1e-06 within 2") == 1
    assert not monitor.history["converged"].any()
    assert (monitor.history["residual"] > 1e-6).all()


@pytest.mark.parametrize("stop", [False, True])
def test_divergence_is_a_row_of_nan_and_training_goes_on_as_the_user_decides(stop):
    model, x, y = build("dense", keras_aeos.optimizers.GradientDescent(1e30), loss="squared_error")
    monitor = AEoSMonitor((x, y), update_freq=1, log_dir="logs")
    callbacks = [monitor, keras.callbacks.TerminateOnNaN()] if stop else [monitor]
    model.fit(x, y, batch_size=len(x), epochs=6, verbose=0, callbacks=callbacks)
    history = monitor.history
    assert (len(history) < 6) is stop
    last = history.iloc[-1]
    assert not last["converged"]
    assert np.isnan(last["preconditioned_sharpness"])
    assert np.isnan(last["edge_ratio"])
    assert last["num_hvps"] == 0
    assert np.isfinite(last["stability_threshold"])
    assert len(pd.read_csv("logs/metrics.csv")) == len(history)


class HalfStopped(layers.Layer):
    """x² with half of its gradient."""

    def call(self, x):
        return x * tf.stop_gradient(x)


def test_check_names_a_layer_whose_second_derivative_is_wrong():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5), HalfStopped(name="square"), layers.Dense(3)]
    )
    model.compile("adam", loss="mse")
    x, y = np.random.default_rng(0).standard_normal((2, 12, 4))
    fit_one(model, x, y[:, :3], AEoSMonitor(update_freq=1))
    with pytest.warns(UserWarning, match=r"Training goes on\. ValueError: .*square"):
        row = fit_one(model, x, y[:, :3], AEoSMonitor(update_freq=1, check=True))
    assert np.isnan(row["preconditioned_sharpness"])


def test_check_passes_a_sound_model():
    model, x, y = build("batch_normalised", "adam")
    assert fit_one(model, x, y, AEoSMonitor(update_freq=1, check=True))["converged"]


DATA = (np.ones((3, 4)), np.ones((3, 3)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantities": ["alignement"]}, ValueError, "Did you mean 'alignment'"),
        ({"quantities": ["trace", "trace"]}, ValueError, "must be different names"),
        ({"data": DATA, "probe_size": 8}, ValueError, "with `data` all of it.*probe_size=8"),
        ({"update_freq": 5, "max_overhead": 0.1}, ValueError, "no effect.*max_overhead=0.1"),
        ({"batch_size": 8}, ValueError, "data=None and batch_size=8"),
        ({"data": "cifar10"}, TypeError, "data of type str"),
        ({"data": (np.ones((3, 4)), np.ones((2, 3)))}, ValueError, r"rows \[2, 3\]"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AEoSMonitor(**options)
