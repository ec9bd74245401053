"""When products are compiled: a measurement decides, once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature import compilation
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.cases import build


def objective_of(name="dense", batch_size=4):
    if name == "pooled":
        pooled = [layers.Conv2D(3, 3), layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(3)]
        model = keras.Sequential([keras.Input((6, 6, 2)), *pooled])
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
        x, y = np.ones((12, 6, 6, 2), "float32"), np.eye(3, dtype="float32")[np.arange(12) % 3]
    else:
        model, x, y = build(name)
        x, y = x[:12], y[:12]
    return Objective(model, from_data((x, y), batch_size))


@pytest.fixture
def trial(monkeypatch):
    """Makes the CPU an accelerator on which plain and compiled products take given seconds."""
    calls = []

    def prepare(plain, compiled):
        monkeypatch.setattr(compilation, "is_host", lambda device: False)
        times = iter((plain, compiled))

        def timed(call):
            calls.append(call())
            return calls[-1], next(times)

        monkeypatch.setattr(compilation, "_timed", timed)
        return calls

    return prepare


@pytest.mark.parametrize(
    ("plain", "seconds", "factor", "expected"),
    [
        (100.0, 60.0, 1.0, True),
        (100.0, 110.0, 1.0, False),  # slower
        (100.0, 60.0, 1.0001, False),  # other numbers
        (100.0, 60.0, np.nan, False),
    ],
)
def test_products_are_compiled_if_they_are_faster_and_equal(
    plain, seconds, factor, expected, trial
):
    calls = trial(plain, seconds)
    objective = objective_of()
    parts = objective.parts
    plainly = parts._second
    parts.__dict__["_compiled"] = lambda *given: [factor * plainly(*given)[0]]
    for _ in range(4):
        assert not parts.compiled
        objective.linearise()
    assert parts.compiled == expected
    objective.linearise()
    assert len(calls) == 2


def test_compiling_waits_for_products_that_would_have_paid_for_it(trial):
    """The saving of so many products: 3 micro-batches, 10 products of 1 ms a linearisation."""
    trial(1e-3, 0.0)
    objective = objective_of()
    needed = 0.02 * objective.parts.num_operations / (0.4 * 3 * 10 * 1e-3)
    assert needed > 4
    for _ in range(4):
        objective.linearise()
    assert objective.parts.compiled is False
    assert objective._trial._next == 8


@pytest.mark.parametrize("name", ["pooled", "uneven", "on a CPU", "unknown to XLA"])
def test_products_stay_as_they_are(name, trial, monkeypatch):
    if name != "on a CPU":
        trial(100.0, 1.0)
    objective = objective_of(name if name == "pooled" else "dense", 5 if name == "uneven" else 4)
    if name == "unknown to XLA":

        def refuse(*given):
            raise tf.errors.InvalidArgumentError(None, None, "unsupported operation")

        objective.parts.__dict__["_compiled"] = refuse
    for _ in range(5):
        hessian = objective.linearise()
    assert not objective.parts.compiled
    assert np.isfinite(hessian.hessian_product(hessian.gradient)).all()


def test_compiled_product_is_the_same(monkeypatch):
    """Also inside of another function, as a solver calls it."""
    objective = objective_of()
    hessian = objective.linearise()
    expected = hessian.hessian_product(hessian.gradient)
    objective.parts.compiled = True
    product = tf.function(hessian.hessian_product, autograph=False)(hessian.gradient)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    assert objective.num_traces == 1


def test_shortest_time_counts_and_the_first_call_does_not(monkeypatch):
    clock = iter([0.0, 9.0, 9.0, 12.0, 12.0, 14.0, 14.0, 18.0])
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(clock))
    assert compilation._timed(lambda: tf.ones([2]))[1] == 2.0
