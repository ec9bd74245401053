"""Every quantity against the dense Hessian, in float64, and what names may be asked for."""

import functools
import math

import keras
import numpy as np
import pytest

import keras_aeos
from keras_aeos import AEoSMonitor, Eigensolver
from keras_aeos.callbacks import quantities
from keras_aeos.callbacks.quantities import QUANTITIES
from tests.callbacks.quantity_cases import NUM_EXAMPLES, RATE, small_model
from tests.cases import dense_hessian, flat, flat_parameters, training_gradient


class Weights(keras.callbacks.Callback):
    """Keeps the weights before the last update."""

    def on_train_batch_begin(self, batch, logs=None):
        self.before = flat_parameters(self.model)


@functools.cache
def measured(optimizer, batch_size, strategy="none"):
    """The only row of a run with every quantity, its densities, and what both should be.

    Returns:
        The row, the table of its densities, eigenvalues and eigenvectors of H and ``P^-½ H P^-½``,
        and a dictionary of the columns that follow from dense matrices.
    """
    model, x, y = small_model(optimizer, strategy)
    monitor = AEoSMonitor(
        (x, y),
        batch_size=batch_size,
        update_freq=3,
        quantities=list(QUANTITIES),
        num_eigenvalues=2,
        # Eigenvectors are good to the root of the tolerance.
        solver=Eigensolver(rtol=1e-12, max_hvps=500),
    )
    weights = Weights()
    model.fit(x, y, batch_size=NUM_EXAMPLES, epochs=3, verbose=0, callbacks=[weights, monitor])
    [row] = monitor.history.to_dict("records")

    hessian, gradient = dense_hessian(model, x, y), training_gradient(model, x, y)
    p, point = flat(keras_aeos.preconditioner(model.optimizer)), flat_parameters(model)
    update = point - weights.before
    g = gradient(point)
    batches = [
        (training_gradient(model, *batch)(point), dense_hessian(model, *batch))
        for batch in (
            (x[i : i + batch_size], y[i : i + batch_size])
            for i in range(0, NUM_EXAMPLES, batch_size)
        )
    ]
    expected = {
        "gradient_norm_squared": g @ g,
        "preconditioner_norm_squared": p @ p,
    }
    spectra = {}
    for prefix, scale in (("", np.ones_like(p)), ("preconditioned_", p**-0.5)):
        operator = scale[:, None] * hessian * scale
        values, vectors = spectra[prefix] = np.linalg.eigh(operator)
        expected |= {
            f"{prefix}sharpness": values[-1],
            f"{prefix}gradient_curvature": quotient(operator, scale * g),
            f"{prefix}update_curvature": quotient(operator, update / scale),
            f"{prefix}batch_sharpness": np.mean(
                [quotient(scale[:, None] * h * scale, scale * b) for b, h in batches]
            ),
        }
    # Adam's momentum is 0.9 as a moving average: λ* = 38/η, and 2/η for the noise.
    top, limit = vectors[:, -1], 38.0 if optimizer is keras_aeos.optimizers.Adam else 2.0
    products = [p**-0.5 * (h @ (p**-0.5 * top)) for _, h in batches]
    noise = np.mean([product @ product for product in products]) / values[-1] ** 2 - 1.0
    semi = p**-0.5 * g
    alignment = np.sum((vectors[:, -2:].T @ semi) ** 2)
    return (
        row,
        monitor.spectral_densities,
        spectra,
        expected
        | {
            "semi_preconditioned_gradient_norm_squared": semi @ semi,
            "alignment": alignment,
            "alignment_remainder": semi @ semi - alignment,
            "largest_stable_learning_rate": RATE * row["stability_threshold"] / values[-1],
            "curvature_noise": noise,
            "batch_edge_ratio": RATE * values[-1] * (1.0 / limit + noise / 2.0),
            # Replicas clip before they add up, so it is not known.
            "clipping_factor": 1.0 if strategy == "none" else math.nan,
            "clipping_frequency": 0.0 if strategy == "none" else math.nan,
            "clipped_edge_ratio": (
                values[-1] / row["stability_threshold"] if strategy == "none" else math.nan
            ),
            "preconditioned_sharpness_2": values[-2],
            "smallest_eigenvalue": values[0],
        },
    )


def quotient(matrix, vector):
    return vector @ matrix @ vector / (vector @ vector)


RUNS = [
    (keras_aeos.optimizers.Adam, 4),
    (keras_aeos.optimizers.GradientDescent, NUM_EXAMPLES),
    (keras_aeos.optimizers.Adam, 4, "mirrored 2"),
]
RUN_NAMES = ["micro-batches", "without preconditioning", "two replicas"]
of_each_run = pytest.mark.parametrize(
    "run",
    [
        pytest.param(run, id=name, marks=[pytest.mark.slow] * (len(run) > 2))
        for run, name in zip(RUNS, RUN_NAMES, strict=True)
    ],
)


@of_each_run
def test_quantities_are_those_of_the_dense_hessian(run):
    """Differences of the gradient are good to 1e-6 of the largest eigenvalue."""
    row, _, spectra, expected = measured(*run)
    assert row["converged"]
    scale = {prefix: values[-1] for prefix, (values, _) in spectra.items()}
    for column, value in expected.items():
        size = scale["preconditioned_" if column.startswith("preconditioned_") else ""]
        assert row[column] == pytest.approx(value, rel=1e-5, abs=1e-6 * size, nan_ok=True), column
    of_quantities = set(quantities.columns(QUANTITIES)) - {
        *("trace", "trace_error", "preconditioned_trace", "preconditioned_trace_error"),
        # test_critical_learning_rate.py, test_layer_blocks.py
        *("critical_learning_rate", "directional_sharpness", "num_passes"),
        *("edge_layer", "edge_layer_share"),
    }
    assert of_quantities <= set(expected)


@pytest.mark.parametrize("prefix", ["", "preconditioned_"])
@of_each_run
def test_trace_is_within_its_error(run, prefix):
    """Four standard errors of ten probes; and the error is not a way out."""
    row, _, spectra, _ = measured(*run)
    values, _ = spectra[prefix]
    error = row[f"{prefix}trace_error"]
    assert abs(row[f"{prefix}trace"] - values.sum()) <= 4.0 * error
    assert 0.0 < error < 0.1 * np.abs(values).sum()


@pytest.mark.parametrize("operator", ["raw", "preconditioned"])
@of_each_run
def test_spectral_density_is_that_of_the_dense_hessian(run, operator):
    """The quadrature is exact here, and only the probes are random.

    For random signs z and the projector M of an interval, ``zᵀMz`` has the variance
    ``2(‖M‖² - Σ Mᵢᵢ²)``. Of that, five probes: all fractions within four standard errors.
    """
    _, table, spectra, _ = measured(*run)
    table = table[table["operator"] == operator]
    values, vectors = spectra["" if operator == "raw" else "preconditioned_"]
    fraction, error = (table[column].to_numpy(copy=True) for column in ("fraction", "error"))
    edges = np.array([*table["low"], table["high"].iloc[-1]])
    assert set(table["step"]) == {3}
    assert fraction.sum() == pytest.approx(1.0, rel=1e-9)
    np.testing.assert_array_equal(table["high"].iloc[:-1], table["low"].iloc[1:])
    assert np.abs(values).max() == pytest.approx(edges[-1], rel=1e-6)

    # Zeros of the Hessian, which its differences miss by 1e-10, lie on both sides of 0.
    zero = int(np.flatnonzero(edges == 0.0)[0])
    edges = np.delete(edges, zero)
    edges[[0, -1]] *= 1.0 + 1e-7
    fraction[zero - 1] += fraction[zero]
    error[zero - 1] = np.hypot(*error[zero - 1 : zero + 1])
    fraction, error = np.delete(fraction, zero), np.delete(error, zero)
    expected_error = []
    for low, high, part in zip(edges[:-1], edges[1:], fraction, strict=True):
        within = (values >= low) & (values < high)
        projector = vectors[:, within] @ vectors[:, within].T
        variance = 2.0 * (np.sum(projector**2) - np.sum(np.diag(projector) ** 2)) / 5.0
        expected_error.append(math.sqrt(max(variance, 0.0)) / len(values))
        assert abs(part - np.mean(within)) <= 4.0 * expected_error[-1] + 1e-9
    assert np.count_nonzero(expected_error) >= 4
    # Each of the errors is itself random, but not all of them together.
    assert 0.5 < np.linalg.norm(error) / np.linalg.norm(expected_error) < 2.0


def test_batches_make_a_difference():
    """Else the tests above could not tell the micro-batches from all examples."""
    _, _, _, expected = measured(*RUNS[0])
    for prefix in ("", "preconditioned_"):
        whole, batches = (
            expected[f"{prefix}{name}"] for name in ("gradient_curvature", "batch_sharpness")
        )
        assert abs(batches / whole - 1.0) > 0.01


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["alignement"], "Did you mean 'alignment'.*Received: 'alignement'"),
        (["sharpness", "sharpnes"], "Did you mean 'sharpness'.*Received: 'sharpnes'"),
        (["preconditoned_trace"], "Did you mean 'preconditioned_trace'"),
        (["Trace"], "Did you mean 'trace'"),
        ([3], r"Received: 3 in quantities=\[3\]"),
        (
            ["trace", "sharpness", "trace"],
            r"different names. Received: quantities=\['trace', 'sharpness', ",
        ),
    ],
)
def test_names_that_are_not_known_or_given_twice(names, message):
    with pytest.raises(ValueError, match=message):
        AEoSMonitor(quantities=names)


def test_nothing_near_is_nothing_meant():
    with pytest.raises(ValueError, match="Unknown quantity") as caught:
        AEoSMonitor(quantities=["xyz"])
    assert "Did you mean" not in str(caught.value)
