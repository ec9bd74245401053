"""The row without `fit`: in a training loop of one's own, and in the documentation."""

import warnings
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos.callbacks import columns
from keras_aeos.callbacks.quantities import DEFAULT, QUANTITIES
from tests.cases import build, dense_hessian

TIMES = ["seconds", "overhead", "epoch"]


def loop(model, x, y, num_updates, batch_size):
    """Train without `fit`; after each update yield the parameters before it."""
    dtype = keras.config.floatx()
    inputs, targets = tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype)
    for update in range(num_updates):
        begin = update * batch_size % len(x)
        part = slice(begin, begin + batch_size)
        before = [tf.identity(v.value) for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs[part], targets[part], model(inputs[part]))
        gradients = tape.gradient(loss, model.trainable_weights)
        model.optimizer.apply(gradients, model.trainable_weights)
        yield before


def test_row_of_an_own_loop_is_that_of_the_monitor():
    keras.config.set_floatx("float64")
    names = ["sharpness", "update_curvature", "preconditioned_trace"]
    model, x, y = build("dense", "adam")
    monitor = keras_aeos.AEoSMonitor((x, y), update_freq=1, quantities=names, num_eigenvalues=2)
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])

    keras.utils.set_random_seed(0)
    model, x, y = build("dense", "adam")
    meter = keras_aeos.EdgeMeter(model, (x, y), quantities=names, num_eigenvalues=2)
    rows = [meter.measure(before_update=before) for before in loop(model, x, y, 6, 4)]
    assert list(rows[0]) == meter.columns == list(monitor.history.columns)
    for expected, found in zip(monitor.history.to_dict("records"), rows, strict=True):
        for name in set(meter.columns) - set(TIMES):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name


EVERY_ROW, FEW_ROWS = list(range(1, 15)), [2, 8, 14]


@pytest.mark.parametrize(
    ("optimizer", "quantities", "expected"),
    [
        ("adam", None, FEW_ROWS),
        ("adam", DEFAULT, EVERY_ROW),
        ("adam", ["sharpness"], EVERY_ROW),
        ("sgd", None, EVERY_ROW),  # P = 1, one solve for both
        (keras.optimizers.Lion, None, EVERY_ROW),  # nothing else is known
    ],
)
def test_raw_sharpness_is_left_to_few_rows_by_default(optimizer, quantities, expected, monkeypatch):
    keras.config.set_floatx("float64")
    model, x, y = build("dense", optimizer if isinstance(optimizer, str) else optimizer(1e-3))
    meter = keras_aeos.EdgeMeter(model, (x, y), quantities=quantities)
    solve = mock.Mock(wraps=meter._tracker.solve)
    monkeypatch.setattr(meter._tracker, "solve", solve)
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only the raw sharpness")
        for number, _ in enumerate(loop(model, x, y, 14, 4), 1):
            row = meter.measure()
            assert list(row) == meter.columns
            assert row["converged"]
            if np.isfinite(row["sharpness"]):
                found.append(number)
    assert found == expected
    num_raw = sum(call.args[0] == "raw" for call in solve.call_args_list)
    assert num_raw == (0 if optimizer == "sgd" else len(expected))
    top = np.linalg.eigvalsh(dense_hessian(model, x, y))[-1]
    assert row["sharpness"] == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize(
    ("quantities", "rtol", "following"),
    [(None, 1e-2, [3, 4, 6, 7]), (["sharpness"], 1e-2, [3, 4, 6, 7]), (None, 1e-3, [])],
)
def test_rows_that_follow_say_what_they_leave_out(quantities, rtol, following):
    keras.config.set_floatx("float64")
    model, x, y = build("dense", "adam")
    settings = keras_aeos.Eigensolver(rtol=rtol)
    meter = keras_aeos.EdgeMeter(model, (x, y), quantities=quantities, solver=settings)
    for number, _ in enumerate(loop(model, x, y, 8, 4), 1):
        row = meter.measure()
        for name in ("upper_bound", "smallest_eigenvalue"):
            assert np.isnan(row[name]) == (number in following), (number, name)
        assert row["converged"]
        diagonal = keras_aeos.preconditioner(model.optimizer)
        scale = 1.0 / np.sqrt(np.concatenate([p.numpy().ravel() for p in diagonal]))
        top = np.linalg.eigvalsh(scale[:, None] * dense_hessian(model, x, y) * scale)[-1]
        assert row["preconditioned_sharpness"] == pytest.approx(top, rel=rtol)


def test_time_of_a_row_is_counted():
    model, x, y = build("dense", "adam")
    meter = keras_aeos.EdgeMeter(model, (x, y))
    rows = [meter.measure(epoch=3) for _ in loop(model, x, y, 2, 12)]
    assert [r["epoch"] for r in rows] == [3, 3]
    assert all(r["seconds"] > 0.0 and 0.0 < r["overhead"] <= 1.0 for r in rows)


def test_a_layer_frozen_on_the_way_is_no_parameter_of_the_next_row():
    model, x, y = build("dense", "sgd")
    meter = keras_aeos.EdgeMeter(model, (x, y))
    whole = meter.measure()["sharpness"]
    model.layers[0].trainable = False
    part = meter.measure()["sharpness"]
    top = keras_aeos.top_eigenpairs(model, (x, y)).eigenvalues[0]
    assert part == pytest.approx(top, rel=1e-3)
    assert abs(part / whole - 1.0) > 1e-2


def test_densities_are_those_of_the_last_row():
    model, x, y = build("dense", "adam")
    meter = keras_aeos.EdgeMeter(model, (x, y), quantities=["spectral_density"])
    for update, _ in enumerate(loop(model, x, y, 2, 12), 1):
        meter.measure()
        assert {density["step"] for density in meter.densities} == {update}
        assert sum(d["fraction"] for d in meter.densities) == pytest.approx(1.0)


def test_columns_are_documented_in_the_monitors_table():
    documented = keras_aeos.AEoSMonitor.__doc__ or ""
    assert "{columns}" not in documented
    assert "{quantities}" not in documented
    for name in [*columns.columns((), 1), *QUANTITIES]:
        assert f"\n    ``{name}`` " in documented
    assert max(len(line) for line in documented.splitlines()) <= 100


def test_without_an_update_there_is_no_preconditioner():
    model, x, y = build("dense", "adam")
    meter = keras_aeos.EdgeMeter(model, (x, y))
    before = meter.measure()
    assert before["step"] == 0
    assert np.isnan(before["preconditioned_sharpness"])
    assert np.isfinite(before["stability_threshold"])
    assert before["sharpness"] > 0
    assert before["converged"]
    assert not before["exact"]
    next(loop(model, x, y, 1, 12))
    after = meter.measure()
    assert after["preconditioned_sharpness"] > 0
    assert after["exact"]


def test_more_eigenvalues_than_parameters_are_refused():
    model, x, y = build("dense", "adam")
    meter = keras_aeos.EdgeMeter(model, (x, y), num_eigenvalues=10_000)
    for _ in range(2):
        with pytest.raises(ValueError, match="at most the number of trainable parameters, 43"):
            meter.measure()


def test_solver_is_that_which_was_asked_for():
    model, x, y = build("dense", "adam")
    next(loop(model, x, y, 1, 12))
    settings = keras_aeos.Eigensolver("power", rtol=1e-4, max_hvps=1000)
    measured = keras_aeos.EdgeMeter(model, (x, y), solver=settings).measure()
    assert np.isnan(measured["upper_bound"])  # power iteration has no certificate
    assert measured["residual"] <= 1e-2
    assert measured["converged"]


def test_a_product_limit_above_the_default_is_kept_by_the_automatic_monitor():
    keras.config.set_floatx("float64")
    model, x, y = build("dense", "adam")
    settings = keras_aeos.Eigensolver(rtol=1e-6, max_hvps=60)
    monitor = keras_aeos.AEoSMonitor((x, y), quantities=[], num_eigenvalues=2, solver=settings)
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[monitor])
    first = monitor.history.iloc[0]
    assert 8 < first["num_hvps"] <= 60
    assert first["converged"]
