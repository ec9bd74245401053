import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos import Eigensolver
from tests.cases import (
    MODELS,
    build,
    dense_hessian,
    random_preconditioner,
)

NUM_EIGENVALUES = 5


def spectrum(hessian, diagonal=None):
    """Eigenvalues of ``P^-½ H P^-½``, descending."""
    if diagonal is not None:
        hessian = hessian / np.sqrt(np.outer(diagonal, diagonal))
    return np.linalg.eigvalsh(hessian)[::-1]


@pytest.mark.parametrize("name", MODELS)
def test_top_eigenvalues_are_those_of_the_dense_hessian(name):
    """float64 to 1e-5 and float32 to 1e-3, of H and of ``P^-½ H P^-½``."""
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    preconditioner, diagonal = random_preconditioner(model)
    hessian = dense_hessian(model, x, y)
    expected = [spectrum(hessian, weights)[:NUM_EIGENVALUES] for weights in (None, diagonal)]

    for values, parts in zip(expected, (None, preconditioner), strict=True):
        result = keras_aeos.top_eigenpairs(
            model,
            (x, y),
            num_eigenvalues=NUM_EIGENVALUES,
            preconditioner=parts,
            solver=Eigensolver(rtol=1e-6, max_hvps=500),
        )
        assert result.converged.all()
        np.testing.assert_allclose(result.eigenvalues, values, rtol=1e-5)

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    single, _, _ = build(name)
    single.set_weights([weight.astype("f") for weight in model.get_weights()])
    preconditioner = [tf.cast(part, tf.float32) for part in preconditioner]
    for values, parts in zip(expected, (None, preconditioner), strict=True):
        result = keras_aeos.top_eigenpairs(
            single,
            (x, y),
            num_eigenvalues=NUM_EIGENVALUES,
            preconditioner=parts,
            solver=Eigensolver(rtol=1e-5, max_hvps=500),
        )
        assert {part.dtype for part in result.eigenvectors[0]} == {tf.float32}
        np.testing.assert_allclose(result.eigenvalues, values, rtol=1e-3)


@pytest.mark.parametrize("name", ["dense", "batch_normalised"])
def test_power_iteration_agrees_with_the_dense_hessian(name):
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    preconditioner, diagonal = random_preconditioner(model)
    expected = spectrum(dense_hessian(model, x, y), diagonal)[:2]
    result = keras_aeos.top_eigenpairs(
        model,
        (x, y),
        num_eigenvalues=2,
        preconditioner=preconditioner,
        solver=Eigensolver("power", rtol=1e-6, max_hvps=3000),
    )
    assert result.converged.all()
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-5)


@pytest.mark.parametrize("solver", ["lanczos", "power"])
def test_eigenvectors_solve_the_generalised_problem(solver):
    """``H u = λ P u`` and ``uᵀ P u = 1`` in parameter coordinates; the residual is the true one."""
    keras.config.set_floatx("float64")
    model, x, y = build("dense")
    preconditioner, diagonal = random_preconditioner(model)
    hessian = dense_hessian(model, x, y)
    result = keras_aeos.top_eigenpairs(
        model,
        (x, y),
        num_eigenvalues=2,
        preconditioner=preconditioner,
        solver=Eigensolver(solver, max_hvps=1000),
    )
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    assert (result.error_bounds <= 1e-3).all()
    for value, vector, residual in zip(
        result.eigenvalues, result.eigenvectors, result.residuals, strict=True
    ):
        assert [tuple(part.shape) for part in vector] == shapes
        u = np.concatenate([np.ravel(part) for part in vector])
        assert u @ (diagonal * u) == pytest.approx(1.0, rel=1e-9)
        error = (hessian @ u - value * diagonal * u) / np.sqrt(diagonal)
        assert np.linalg.norm(error) / value == pytest.approx(residual, rel=1e-2, abs=1e-7)


@pytest.mark.parametrize("name", ["dense", "regularised", "attention", "embedding"])
@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_micro_batches_equal_one_batch(name, batch_size):
    keras.config.set_floatx("float64")
    model, x, y = build(name)
    data = (x, y, np.linspace(0.1, 2.0, len(x)))
    solver = Eigensolver(rtol=1e-10, max_hvps=500)
    whole = keras_aeos.top_eigenpairs(model, data, num_eigenvalues=2, solver=solver, batch_size=12)
    split = keras_aeos.top_eigenpairs(
        model, data, num_eigenvalues=2, solver=solver, batch_size=batch_size
    )
    np.testing.assert_allclose(split.eigenvalues, whole.eigenvalues, rtol=1e-9)


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset"])
def test_data_sets_are_measured_like_arrays(kind):
    model, x, y = build("dense")

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return x[5 * i : 5 * i + 5], y[5 * i : 5 * i + 5]

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5) if kind == "tf.data" else Batches()
    expected = keras_aeos.top_eigenpairs(model, (x, y)).eigenvalues
    np.testing.assert_allclose(keras_aeos.top_eigenpairs(model, data).eigenvalues, expected, 1e-5)


def test_result_is_reproducible():
    model, x, y = build("dense")
    first, second = (keras_aeos.top_eigenpairs(model, (x, y), seed=3) for _ in range(2))
    assert first.eigenvalues == second.eigenvalues
    assert first.num_hvps == second.num_hvps


def test_parameters_are_left_alone():
    model, x, y = build("batch_normalised")
    before = [w.copy() for w in model.get_weights()]
    keras_aeos.top_eigenpairs(model, (x, y))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_product_limit_is_kept_and_reported():
    model, x, y = build("dense")
    for solver in ("lanczos", "power"):
        result = keras_aeos.top_eigenpairs(
            model, (x, y), solver=Eigensolver(solver, rtol=1e-7, max_hvps=4)
        )
        assert result.num_hvps <= 4
        assert not result.converged.any()
        assert result.error_bounds[0] > 1e-7


def uncompiled():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def unbuilt():
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile(loss="mse")
    return model


def frozen():
    model, _, _ = build("dense")
    model.trainable = False
    model.compile(loss="mse")
    return model


X, Y = np.ones((6, 4), "f"), np.ones((6, 3), "f")


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "message"),
    [
        (None, (X, Y[:5]), {}, ValueError, r"numbers of rows \[5, 6\]"),
        (None, (X[:0], Y[:0]), {}, ValueError, r"numbers of rows \[0\]"),
        (None, ((X, Y) for _ in range(2)), {}, TypeError, "type generator"),
        (None, (X, Y, Y, Y), {}, TypeError, "length 4"),
        (
            None,
            tf.data.Dataset.from_tensors((X, Y)).repeat(),
            {},
            ValueError,
            "infinite tf.data.Dataset",
        ),
        (None, tf.data.Dataset.from_tensors((X, Y)).take(0), {}, ValueError, "at least one batch"),
        (None, tf.data.Dataset.from_tensors((X, Y)), {"batch_size": 2}, ValueError, "batch_size=2"),
        (None, (X, Y), {"batch_size": 0}, ValueError, "batch_size=0"),
        (None, (X, Y), {"num_eigenvalues": 1000}, ValueError, "num_eigenvalues=1000"),
        (None, (X, Y), {"preconditioner": [tf.ones(3)]}, ValueError, r"shapes \[\(3,\)\]"),
        (uncompiled, (X, Y), {}, ValueError, "not compiled"),
        (unbuilt, (X, Y), {}, ValueError, "not built"),
        (frozen, (X, Y), {}, ValueError, "no trainable variables"),
    ],
)
def test_bad_input_is_named(model, data, options, error, message):
    model = build("dense")[0] if model is None else model()
    with pytest.raises(error, match=message):
        keras_aeos.top_eigenpairs(model, data, **options)


def change_loss(model):
    model.compile("adam", "mae", loss_weights=[2.0])


def change_trainable(model):
    model.layers[0].trainable = False


def change_weights(model):
    model.set_weights([1.5 * w for w in model.get_weights()])


@pytest.mark.parametrize(
    ("change", "same_trace"),
    [(change_loss, False), (change_trainable, False), (change_weights, True)],
)
def test_trace_is_kept_with_the_model_until_it_changes(change, same_trace):
    model, x, y = build("dense", "adam")
    first = keras_aeos.top_eigenpairs(model, (x, y))
    objective = model.__dict__["_keras_aeos_objective"][1]
    assert keras_aeos.top_eigenpairs(model, (2.0 * x, y)).eigenvalues != first.eigenvalues
    assert keras_aeos.top_eigenpairs(model, (x, y)).eigenvalues == first.eigenvalues
    assert objective.num_traces == 1
    change(model)
    kept = keras_aeos.top_eigenpairs(model, (x, y))
    assert (model.__dict__["_keras_aeos_objective"][1] is objective) is same_trace
    object.__delattr__(model, "_keras_aeos_objective")
    assert kept.eigenvalues == keras_aeos.top_eigenpairs(model, (x, y)).eigenvalues


def test_trace_does_not_keep_the_model_alive():
    model, x, y = build("dense", "adam")
    keras_aeos.top_eigenpairs(model, (x, y))
    reference = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None
