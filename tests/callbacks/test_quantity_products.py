"""The products that quantities take at one point, and what is missing there."""

import gc
import math
import weakref

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.callbacks import quantities
from keras_aeos.callbacks.quantities import QUANTITIES
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.measurement import Measurement
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from tests.callbacks.quantity_cases import NUM_EXAMPLES, RATE, small_model

DENSITIES = ("spectral_density", "preconditioned_spectral_density")


def point_of(batch_size=NUM_EXAMPLES, model_and_data=None):
    """A function ``(names, diagonal of P) -> Measurement`` at one point, and the number n."""
    model, x, y = model_and_data or small_model("sgd")
    objective = Objective(model, from_data((x, y), batch_size))
    size = objective.num_parameters
    update = tf.constant(np.random.default_rng(5).standard_normal(size))

    def measurement(names, diagonal, update=update):
        return Measurement(
            objective,
            lambda name, matvec, length=size: solve(matvec, length),
            None if diagonal is None else tf.constant(diagonal * np.ones(size)),
            update,
            [QUANTITIES[name].per_batch for name in names],
        )

    return measurement, size


def solve(matvec, size):
    return lanczos(matvec, tf.zeros([0, size], tf.float64), 1, 1e-9, 100)


def measure(measurement, names):
    row = quantities.measure(names, measurement, RATE, 2.0 / RATE)
    return row, quantities.densities(names, measurement, 7)


def test_measurement_is_freed_at_once():
    """Not by the garbage collector, which comes late where few objects hold much memory."""
    measurement, _ = point_of()
    gc.disable()
    try:
        point = measurement(list(QUANTITIES), 2.0)
        measure(point, list(QUANTITIES))
        kept = weakref.ref(point.hessian)
        assert kept() is not None
        del point
        assert kept() is None
    finally:
        gc.enable()


BATCH = ["batch_sharpness", "preconditioned_batch_sharpness"]
GRADIENT = ["gradient_curvature", "preconditioned_gradient_curvature"]
UPDATE = ["update_curvature", "preconditioned_update_curvature"]
RAW, PRECONDITIONED = "raw", "preconditioned"


@pytest.mark.parametrize("batch_size", [NUM_EXAMPLES, 4])
def test_products_are_shared(batch_size):
    """Beside the eigensolves, of which there is one for each operator that needs one."""
    several = batch_size < NUM_EXAMPLES
    # quantities: (operators that are solved for, other products with P = 2, those with P = 1)
    table = {
        ("gradient_norm_squared", "preconditioner_norm_squared"): ((), 0, 0),
        ("sharpness",): ((RAW,), 0, 0),
        ("alignment", "largest_stable_learning_rate"): ((PRECONDITIONED,), 0, 0),
        ("sharpness", "alignment"): ((RAW, PRECONDITIONED), 0, 0),
        ("gradient_curvature",): ((), 1, 1),
        tuple(GRADIENT): ((), 2, 1),
        ("update_curvature",): ((), 1, 1),
        tuple(UPDATE): ((), 1, 1),
        ("batch_sharpness",): ((), 1, 1),
        tuple(BATCH): ((), 2, 1),
        ("batch_sharpness", "gradient_curvature"): ((), 1 + several, 1 + several),
        ("gradient_curvature", "batch_sharpness"): ((), 1 + several, 1 + several),
        ("batch_sharpness", "preconditioned_gradient_curvature"): ((), 2, 1 + several),
        (*BATCH, *GRADIENT, *UPDATE): ((), 3 + 2 * several, 2 + several),
        ("trace",): ((RAW,), 10, 10),
        ("trace", "preconditioned_trace"): ((RAW, PRECONDITIONED), 20, 10),
        ("batch_edge_ratio",): ((PRECONDITIONED,), 1, 1),
        ("spectral_density",): ((), 65, 65),  # five probes; 13 different eigenvalues
        DENSITIES: ((), 130, 65),
    }
    at, size = point_of(batch_size)
    for diagonal, column in ((2.0, 1), (1.0, 2)):
        solves = {}
        for operator in (RAW, PRECONDITIONED):
            point = at((), diagonal)
            solves[operator] = solve(getattr(point, operator).matvec, size).num_hvps
        for names, entry in table.items():
            measurement = at(names, diagonal)
            measure(measurement, names)
            solved = entry[0] if diagonal != 1.0 else entry[0][:1]
            expected = entry[column] + sum(solves[operator] for operator in solved)
            assert measurement.num_hvps == expected, (names, diagonal)
            measure(measurement, names)  # all of it is known now
            assert measurement.num_hvps == expected, (names, diagonal)


def test_trace_is_exact_where_the_known_vectors_span_everything():
    """Three parameters, two of them in eigenvectors and guards, the lowest one as the last."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.random.default_rng(0).standard_normal((2, 8, 2))
    at, size = point_of(8, (model, x, y[:, :1]))
    assert size == 3
    row, _ = measure(at(["trace"], None), ["trace"])
    design = np.c_[x, np.ones(8)]
    expected = 2.0 * np.sum(design**2) / 8
    assert row["trace"] == pytest.approx(expected, rel=1e-9)
    assert row["trace_error"] <= 1e-9 * expected


def test_without_preconditioner_or_update_what_needs_them_is_missing():
    at, _ = point_of()
    row, densities = measure(at(QUANTITIES, None, update=None), QUANTITIES)
    present = {column for column, value in row.items() if not pd.isna(value)}
    assert present == {
        *("sharpness", "gradient_norm_squared", "gradient_curvature", "batch_sharpness"),
        *("trace", "trace_error", "edge_layer", "edge_layer_share"),
    }
    assert {line["operator"] for line in densities} == {"raw"}
    assert set(row) == set(quantities.columns(QUANTITIES))


def test_where_the_loss_is_not_finite_all_is_missing():
    model, x, y = small_model("sgd")
    x[0, 0] = np.nan
    at, _ = point_of(NUM_EXAMPLES, (model, x, y))
    names = [name for name in QUANTITIES if name not in BATCH]
    measurement = at(names, 2.0)
    row, densities = measure(measurement, names)
    assert np.isnan(list(row.values())).all()
    assert set(row) == set(quantities.columns(names))
    assert densities == []
    assert measurement.num_hvps == 0
    row, _ = measure(at(BATCH, 2.0), BATCH)
    assert np.isnan(list(row.values())).all()


def test_no_learning_rate_is_too_large_without_positive_curvature():
    at, size = point_of()
    measurement = at((), 2.0)
    negative = measurement.preconditioned
    negative.eigenpairs = lanczos(lambda v: -v, tf.zeros([0, size], tf.float64), 1, 1e-3, 5)
    row, _ = measure(measurement, ["largest_stable_learning_rate"])
    assert row == {"largest_stable_learning_rate": math.inf}


def test_zero_gradient_has_no_curvature_along_it():
    """A direction is missing there, in the batches as in the whole."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    at, _ = point_of(4, (model, np.ones((4, 2)), np.zeros((4, 1))))
    names = ["gradient_curvature", "batch_sharpness", "sharpness"]
    row, _ = measure(at(names, None), names)
    assert math.isnan(row["gradient_curvature"])
    assert math.isnan(row["batch_sharpness"])
    assert row["sharpness"] == pytest.approx(2.0 * 3.0, rel=1e-6)  # 2 (x, x, 1)ᵀ(x, x, 1) at x = 1
