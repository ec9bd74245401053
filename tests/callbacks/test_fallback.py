"""Where there is no curvature, the monitor measures the critical learning rate, and says so."""

import copy
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor
from tests.cases import build

RATE = 0.05
COLUMNS = ["critical_learning_rate", "directional_sharpness", "num_passes"]


def fake_quantised(x):
    return tf.quantization.fake_quant_with_min_max_args(x, -6.0, 6.0, num_bits=16)


def refused_model():
    """A model with a layer that has no second derivative, and its data."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "tanh")])
    model.add(layers.Lambda(fake_quantised))
    model.add(layers.Dense(3))
    model.compile(keras.optimizers.SGD(RATE), "mse")
    generator = np.random.default_rng(0)
    return model, generator.standard_normal((12, 4)), generator.standard_normal((12, 3))


@pytest.mark.parametrize("options", [{}, {"quantities": ["critical_learning_rate"]}])
@pytest.mark.parametrize("check", [False, True])
def test_a_model_without_curvature_has_rows_of_forward_passes(options, check, tmp_path):
    model, x, y = refused_model()
    monitor = AEoSMonitor((x, y), update_freq=1, check=check, log_dir=tmp_path, **options)
    with warnings.catch_warnings(record=True, action="always") as caught:
        history = model.fit(x, y, batch_size=12, epochs=3, verbose=0, callbacks=[monitor])
    said = [w for w in caught if "from now on only `critical_learning_rate`" in str(w.message)]
    assert len(said) == 1
    rows = monitor.history
    # With full batches the loss of an epoch is that before its update, hence of the row before.
    assert rows["loss"][:-1].to_numpy() == pytest.approx(history.history["loss"][1:], rel=1e-5)
    assert (rows["critical_learning_rate"] > RATE).all()
    assert rows["num_passes"].between(2, 16).all()
    assert rows["preconditioned_sharpness"].isna().all()
    assert not rows["converged"].any()
    assert not rows["exact"].any()
    written = pd.read_csv(tmp_path / "metrics.csv")
    assert list(written) == list(rows)
    assert written[COLUMNS].to_numpy() == pytest.approx(rows[COLUMNS].to_numpy())


def test_columns_come_with_the_first_row_that_needs_them(tmp_path, monkeypatch):
    original = keras_aeos.EdgeMeter.measure

    def measure(self, **options):
        if options["step"] > 2:
            raise ValueError("no curvature")
        return original(self, **options)

    monkeypatch.setattr(keras_aeos.EdgeMeter, "measure", measure)
    model, x, y = build("dense", keras.optimizers.SGD(RATE))
    monitor = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path)
    with pytest.warns(UserWarning, match="only `critical_learning_rate`.*no curvature"):
        model.fit(x, y, batch_size=12, epochs=4, verbose=0, callbacks=[monitor])
    rows = monitor.history
    assert rows["step"].tolist() == [1, 2, 3, 4]
    for name in ("preconditioned_sharpness", "residual"):
        assert rows[name].notna().tolist() == [True, True, False, False]
    # The update before the third row was not kept, because nothing needed it.
    assert rows["critical_learning_rate"].notna().tolist() == [False, False, False, True]
    assert rows["num_passes"][2] == 0
    assert 2 <= rows["num_passes"][3] <= 16
    for same in (pd.read_csv(tmp_path / "metrics.csv"), copy.deepcopy(monitor).history):
        pd.testing.assert_frame_equal(same, rows, check_dtype=False)


def test_rows_that_do_not_converge_have_forward_passes_too(tmp_path):
    def fit(epochs, watching):
        options = {"batch_size": 12, "shuffle": False, "verbose": 0}
        model.fit(x, y, epochs=epochs, callbacks=[watching], **options)

    def starved(name):
        solver = keras_aeos.Eigensolver(max_hvps=2, rtol=1e-6)
        return AEoSMonitor((x, y), update_freq=1, solver=solver, log_dir=tmp_path / name)

    model, x, y = build("dense", keras.optimizers.SGD(RATE))
    start = model.get_weights()
    whole = starved("whole")
    with pytest.warns(UserWarning, match="From now on rows have `critical_learning_rate`"):
        fit(4, whole)
    rows = whole.history
    assert rows["preconditioned_sharpness"].notna().all()
    assert not rows["converged"].any()
    assert rows["critical_learning_rate"].notna().tolist() == [False, True, True, True]
    assert list(pd.read_csv(tmp_path / "whole" / "metrics.csv")) == list(rows)

    model.set_weights(start)
    model.optimizer.iterations.assign(0)
    first, second = starved("parts"), starved("parts")
    with pytest.warns(UserWarning, match="did not converge"):
        fit(2, first)
    first.save(tmp_path / "monitor.npz")
    second.load(tmp_path / "monitor.npz")
    fit(2, second)
    same = [name for name in rows if name not in ("epoch", "seconds", "overhead")]
    pd.testing.assert_frame_equal(second.history[same], rows[same], check_dtype=False)


@pytest.mark.filterwarnings("ignore:A measurement failed")
def test_rows_of_forward_passes_go_on_where_a_monitor_was_saved(tmp_path):
    def fit(epochs, watching, model):
        options = {"batch_size": 12, "shuffle": False, "verbose": 0}
        model.fit(x, y, epochs=epochs, callbacks=[watching], **options)

    keras.utils.set_random_seed(0)
    model, x, y = refused_model()
    start = model.get_weights()
    whole = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path / "whole")
    fit(4, whole, model)
    model.set_weights(start)
    model.optimizer.iterations.assign(0)
    first = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path / "parts")
    fit(2, first, model)
    first.save(tmp_path / "monitor.npz")
    second = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path / "parts")
    second.load(tmp_path / "monitor.npz")
    fit(2, second, model)
    for rows in (second.history, pd.read_csv(tmp_path / "parts" / "metrics.csv")):
        same = [name for name in rows if name not in ("epoch", "seconds", "overhead")]
        pd.testing.assert_frame_equal(rows[same], whole.history[same], check_dtype=False)


def test_the_quantity_is_the_critical_learning_rate_of_the_last_update():
    model, x, y = build("dense", keras.optimizers.Adam(RATE))
    monitor = AEoSMonitor((x, y), update_freq=3, quantities=["critical_learning_rate"])
    model.fit(x, y, batch_size=12, epochs=2, verbose=0)
    # The function looks ahead, from where the update begins that the monitor sees afterwards.
    expected = keras_aeos.critical_learning_rate(model, (x, y))
    model.fit(x, y, batch_size=12, epochs=1, verbose=0, callbacks=[monitor])
    (row,) = monitor.history.to_dict("records")
    # Float32 knows an update of parameters near 1 to 1e-5 of it.
    assert row["critical_learning_rate"] == pytest.approx(expected.value, rel=1e-3)
    assert row["directional_sharpness"] == pytest.approx(expected.directional_sharpness, rel=1e-2)
    assert row["num_passes"] == expected.num_passes
    assert row["converged"]
