"""A preconditioner that stays: what it holds, where it comes from, how stable it is."""

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import FreezePreconditioner
from keras_aeos.optimizers import FrozenAdam, dynamics, save_second_moments
from tests.cases import flat
from tests.optimizers.cases import CUSTOM_OPTIMIZERS, RATE, SHAPES
from tests.optimizers.paths import random_path

custom = pytest.mark.parametrize("name", CUSTOM_OPTIMIZERS)
# Gradients of a matrix, so that Adafactor factors.
QUADRATIC_SHAPE = (3, 4)


@pytest.fixture
def quadratic():
    """A random positive definite Hessian in float64 with the eigenvalues 1, 2, ..., 12."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((12, 12)))
    return basis * np.arange(1.0, 13.0) @ basis.T


@custom
@pytest.mark.parametrize(("fraction", "stable"), [(0.98, True), (1.02, False)])
def test_frozen_on_a_quadratic_the_threshold_separates_stable_from_unstable(
    name, fraction, stable, quadratic
):
    """P as ten updates left it, then the learning rate that puts λ₁(P⁻¹H) at `fraction` of λ*."""
    if name == "frozen_adam":
        moments = [np.random.default_rng(1).uniform(0.1, 2.0, QUADRATIC_SHAPE)]
        optimizer = FrozenAdam(1e-3, moments)
    else:
        optimizer = CUSTOM_OPTIMIZERS[name].make(1e-3, weight_decay=0.0)
    start = np.random.default_rng(2).standard_normal(QUADRATIC_SHAPE)
    variable = keras.Variable(start, dtype="float64")
    optimizer.build([variable])
    hessian = tf.constant(quadratic)

    @tf.function
    def update(num_steps):
        for _ in tf.range(num_steps):
            gradient = tf.linalg.matvec(hessian, tf.reshape(variable.value, [-1]))
            optimizer.apply([tf.reshape(gradient, QUADRATIC_SHAPE)], [variable])

    update(tf.constant(10))
    optimizer.freeze()
    p = flat(keras_aeos.preconditioner(optimizer))
    values, vectors = np.linalg.eigh(quadratic / np.sqrt(np.outer(p, p)))
    top = values[-1]
    optimizer.learning_rate = fraction * CUSTOM_OPTIMIZERS[name].threshold / top
    assert top / keras_aeos.stability_threshold(optimizer) == pytest.approx(fraction, rel=1e-6)

    def along_the_top():
        return abs(vectors[:, -1] @ (np.sqrt(p) * np.ravel(variable.numpy())))

    before = along_the_top()
    update(tf.constant(600))
    after = along_the_top()
    np.testing.assert_array_equal(flat(keras_aeos.preconditioner(optimizer)), p)
    assert after < 1e-2 * before if stable else after > 1e2 * before


@custom
def test_freezing_keeps_the_preconditioner_and_lets_the_momentum_go_on(name):
    optimizer = CUSTOM_OPTIMIZERS[name].make(RATE)
    path = random_path(optimizer)
    for _ in range(5):
        next(path)
    optimizer.freeze()
    diagonal = flat(keras_aeos.preconditioner(optimizer))
    slots = [flat(optimizer.first_moments)] if optimizer.first_moments else []
    parameters, _ = next(path)
    np.testing.assert_array_equal(flat(keras_aeos.preconditioner(optimizer)), diagonal)
    assert (flat(parameters[-1]) != flat(parameters[-2])).all()
    for before in slots:
        assert (flat(optimizer.first_moments) != before).all()
    # Freezing again does not move P to the present step.
    optimizer.freeze()
    np.testing.assert_array_equal(flat(keras_aeos.preconditioner(optimizer)), diagonal)


def small_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
    model.compile(optimizer, loss="mse")
    return model


X = np.random.default_rng(0).standard_normal((12, 4))
Y = np.random.default_rng(1).standard_normal((12, 2))


def fit(model, epochs, **options):
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options)


def test_callback_freezes_after_the_update_it_names():
    """Update 5 of 9 is the last one that P follows, in a training function traced before."""
    optimizer = keras_aeos.optimizers.Adam(RATE)
    model = small_model(optimizer)
    fit(model, epochs=3, callbacks=[FreezePreconditioner(5)])
    assert int(optimizer.frozen_at) == 5

    reference = small_model(keras_aeos.optimizers.Adam(RATE))
    data = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8, 0, 4)]
    for x, y in data:
        reference.train_on_batch(x, y)
    np.testing.assert_allclose(
        flat(keras_aeos.preconditioner(optimizer)),
        flat(keras_aeos.preconditioner(reference.optimizer)),
        rtol=1e-5,
    )


def test_callback_freezes_under_loss_scaling_and_accumulation():
    inner = keras_aeos.optimizers.RMSprop(RATE, gradient_accumulation_steps=3)
    model = small_model(keras.optimizers.LossScaleOptimizer(inner))
    fit(model, epochs=4, callbacks=[FreezePreconditioner(2)])
    assert dynamics.num_updates(inner) == 4
    assert int(inner.frozen_at) == 2


def test_a_frozen_optimizer_is_frozen_after_loading(tmp_path):
    model = small_model(keras_aeos.optimizers.Adam(RATE))
    fit(model, epochs=1)
    model.optimizer.freeze()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, epochs=1)
    np.testing.assert_array_equal(
        flat(keras_aeos.preconditioner(loaded.optimizer)),
        flat(keras_aeos.preconditioner(model.optimizer)),
    )


SOURCES = ["adam", "amsgrad", "adafactor", "keras_adam", "npz", "keras_file", "arrays", "scaled"]


@pytest.mark.parametrize("source", SOURCES)
def test_second_moments_come_from_wherever_they_are(source, tmp_path):
    """P of FrozenAdam is the root of the second moments, written out here for each source."""
    optimizers = {"keras_adam": keras.optimizers.Adam, "adafactor": keras_aeos.optimizers.Adafactor}
    model = small_model(optimizers.get(source, keras_aeos.optimizers.Adam)(RATE))
    fit(model, epochs=2)
    optimizer = model.optimizer
    given = optimizer
    if source == "adafactor":
        expected = np.square(flat(keras_aeos.preconditioner(optimizer)))
    elif source == "keras_adam":
        expected = flat(optimizer._velocities)
    else:
        expected = flat(optimizer.second_moments)
    if source == "npz":
        given = str(tmp_path / "moments.npz")
        save_second_moments(optimizer, given)
    elif source == "keras_file":
        given = tmp_path / "model.keras"
        model.save(given)
    elif source == "arrays":
        given = [m.numpy() for m in optimizer.second_moments]
    elif source == "scaled":
        given = keras.optimizers.LossScaleOptimizer(optimizer)
    frozen = small_model(FrozenAdam(1e-4, given, epsilon=0.0))
    fit(frozen, epochs=1)
    np.testing.assert_allclose(
        flat(keras_aeos.preconditioner(frozen.optimizer)), np.sqrt(expected), rtol=1e-6
    )


def test_second_moments_are_copied():
    source = keras_aeos.optimizers.Adam(RATE)
    path = random_path(source)
    next(path)
    frozen = FrozenAdam(RATE, source)
    before = flat(source.second_moments)
    next(path)
    next(random_path(frozen))
    np.testing.assert_array_equal(flat(frozen.second_moments), before)


ONES = [np.ones(shape) for shape in SHAPES]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FrozenAdam(RATE, [-array for array in ONES]), r"second_moments\[0\]"),
        (lambda: FrozenAdam(RATE, [array * np.nan for array in ONES]), "finite numbers"),
        (lambda: FrozenAdam(RATE, []), r"Received: \[\]"),
        (lambda: FrozenAdam(RATE, keras_aeos.optimizers.HeavyBall(RATE)), "HeavyBall"),
        (lambda: FrozenAdam(RATE, "moments.txt"), "'moments.txt'"),
        (lambda: next(random_path(FrozenAdam(RATE, ONES[:2]))), r"shapes \[\(3, 4\), \(5,\)\]"),
        (lambda: next(random_path(FrozenAdam(RATE))), "second_moments=None"),
        (lambda: keras_aeos.optimizers.Adam(RATE).freeze(), "iterations=0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def damage(path, how):
    """An ``.npz`` file that is damaged, or of another kind."""
    np.savez(path, *ONES)
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(content[:150] + bytes([content[150] ^ 255]) + content[151:])
    elif how in ("str", "complex", "object"):
        np.savez(path, np.ones(3).astype(how))
    elif how == "array":
        np.save(path.with_suffix(".npy"), np.ones(3))
        path.write_bytes(path.with_suffix(".npy").read_bytes())
    elif how == "other archive":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[how])


@pytest.mark.parametrize("suffix", [".npz", ".keras"])
@pytest.mark.parametrize(
    "how",
    ["cut", "empty", "text", "flipped", "str", "complex", "object", "array", "other archive"],
)
def test_damaged_file_is_a_value_error_of_one_line(tmp_path, how, suffix):
    damage(tmp_path / "moments.npz", how)
    path = (tmp_path / "moments.npz").rename(tmp_path / f"moments{suffix}")
    with pytest.raises(ValueError, match=r"Received: second_moments") as caught:
        FrozenAdam(RATE, path)
    assert "\n" not in str(caught.value)


def test_callback_refuses_an_optimizer_that_cannot_be_frozen():
    with pytest.raises(TypeError, match="optimizer=SGD"):
        fit(small_model(keras.optimizers.SGD(RATE)), 1, callbacks=[FreezePreconditioner(1)])
