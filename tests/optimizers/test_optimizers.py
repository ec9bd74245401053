import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos.optimizers import dynamics
from tests.cases import OPTIMIZERS, SCHEDULE, flat, schedule

RATE, DECAY, NUM_STEPS = 0.05, 0.1, 20
SHAPES = [(3, 4), (5,), ()]


def train(optimizer, num_steps=NUM_STEPS, dtype="float64"):
    """Apply random gradients; return the path of parameters and the gradients, flat."""
    generator = np.random.default_rng(3)
    variables = [keras.Variable(generator.standard_normal(s), dtype=dtype) for s in SHAPES]
    path, gradients = [flat(variables)], []
    for _ in range(num_steps):
        gradient = [tf.constant(generator.standard_normal(s), dtype) for s in SHAPES]
        optimizer.apply(gradient, variables)
        gradients.append(flat(gradient))
        path.append(flat(variables))
        yield path, gradients


@pytest.mark.parametrize("decay", [None, DECAY])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_is_the_momentum_divided_by_the_preconditioner(name, scheduled, decay):
    """``x⁺ = (1 - ηw) x - η P⁻¹ m⁺``, with the buffer kept here in the optimizer's own form."""
    make, _ = OPTIMIZERS[name]
    if decay is None and name == "keras_adamw":
        decay = 0.004
    optimizer = make(schedule(RATE) if scheduled else RATE, weight_decay=decay)
    momentum = dynamics.describe(optimizer).momentum
    weight = 1 - momentum.beta if momentum.ema else 1.0
    buffer = 0.0
    for count, (path, gradients) in enumerate(train(optimizer)):
        rate = RATE * SCHEDULE["decay_rate"] ** (count / 7) if scheduled else RATE
        assert dynamics.last_learning_rate(optimizer) == pytest.approx(rate, rel=1e-6)
        diagonal = flat(keras_aeos.preconditioner(optimizer))
        if momentum.ema:
            # The average is of gradients, preconditioned as a whole.
            buffer = momentum.beta * buffer + weight * gradients[-1]
            step = rate / diagonal * buffer
        else:
            # The buffer is of preconditioned steps.
            step = rate / diagonal * gradients[-1]
            buffer = momentum.beta * buffer + step
            step = momentum.beta * buffer + step if momentum.kind == "nesterov" else buffer
        expected = (1 - rate * (decay or 0.0)) * path[-2] - step
        # Keras holds the learning rate and the betas' powers in float32.
        np.testing.assert_allclose(path[-1], expected, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_threshold(name):
    make, product = OPTIMIZERS[name]
    optimizer = make(RATE, weight_decay=0.0)
    assert keras_aeos.stability_threshold(optimizer) == pytest.approx(product / RATE, rel=1e-6)


def numpy_adam(gradients, rate, beta_1, beta_2, epsilon, correct):
    """The displacement after each update, by the published recurrence alone."""
    m = nu = x = np.zeros_like(gradients[0])
    for t, g in enumerate(gradients, 1):
        m = beta_1 * m + (1 - beta_1) * g
        nu = beta_2 * nu + (1 - beta_2) * g**2
        if correct:
            x = x - rate * (m / (1 - beta_1**t)) / (np.sqrt(nu / (1 - beta_2**t)) + epsilon)
        else:
            x = x - rate * m / (np.sqrt(nu) + epsilon)
    return x


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (lambda: keras_aeos.optimizers.Adam(RATE, 0.8, 0.9, 1e-2), (0.8, 0.9, 1e-2, True)),
        (
            lambda: keras_aeos.optimizers.Adam(RATE, 0.8, 0.9, 1e-2, bias_correction=False),
            (0.8, 0.9, 1e-2, False),
        ),
        (lambda: keras_aeos.optimizers.RMSprop(RATE, 0.9, 1e-2), (0.0, 0.9, 1e-2, False)),
    ],
)
def test_path_agrees_with_the_recurrence_in_numpy(optimizer, settings):
    *_, (path, gradients) = train(optimizer())
    moved = path[-1] - path[0]
    np.testing.assert_allclose(moved, numpy_adam(gradients, RATE, *settings), rtol=1e-5, atol=1e-7)


def test_gradient_descent_is_keras_sgd():
    *_, (ours, _) = train(keras_aeos.optimizers.GradientDescent(RATE))
    *_, (stock, _) = train(keras.optimizers.SGD(RATE))
    np.testing.assert_allclose(ours[-1], stock[-1], rtol=1e-12)


def test_adam_is_keras_adam_up_to_the_place_of_epsilon():
    *_, (ours, _) = train(keras_aeos.optimizers.Adam(RATE, epsilon=1e-12))
    *_, (stock, _) = train(keras.optimizers.Adam(RATE, epsilon=1e-12))
    np.testing.assert_allclose(ours[-1], stock[-1], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_has_the_shapes_and_dtypes_of_the_variables(name):
    optimizer = OPTIMIZERS[name][0](RATE)
    for _ in train(optimizer, 2, dtype="float32"):
        pass
    diagonal = keras_aeos.preconditioner(optimizer)
    assert [tuple(part.shape) for part in diagonal] == SHAPES
    assert {part.dtype for part in diagonal} == {tf.float32}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.startswith("keras_")])
def test_config_and_file_bring_an_optimizer_back(name, tmp_path):
    optimizer = OPTIMIZERS[name][0](RATE, weight_decay=DECAY, clipnorm=3.0)
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer, loss="mse")
    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    model.fit(x, y, verbose=0)
    loaded.fit(x, y, verbose=0)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(
        flat(keras_aeos.preconditioner(model.optimizer)),
        flat(keras_aeos.preconditioner(loaded.optimizer)),
    )


def test_learning_rate_and_count_under_gradient_accumulation():
    optimizer = keras.optimizers.SGD(schedule(RATE), gradient_accumulation_steps=3)
    for count, _ in enumerate(train(optimizer, 7), 1):
        assert dynamics.num_updates(optimizer) == count // 3
    # The second update was made at the raw iteration 5.
    expected = RATE * SCHEDULE["decay_rate"] ** (5 / SCHEDULE["decay_steps"])
    assert dynamics.last_learning_rate(optimizer) == pytest.approx(expected, rel=1e-6)


def test_loss_scaling_is_seen_through():
    inner = keras.optimizers.SGD(RATE)
    assert keras_aeos.stability_threshold(
        keras.optimizers.LossScaleOptimizer(inner)
    ) == pytest.approx(2 / RATE, rel=1e-6)


def test_unknown_update_is_refused_by_name():
    class Twice(keras.optimizers.Adam):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(2.0 * gradient, variable, learning_rate)

    for optimizer in (keras.optimizers.Lion(RATE), Twice(RATE)):
        with pytest.raises(TypeError, match=f"optimizer={type(optimizer).__name__}"):
            keras_aeos.stability_threshold(optimizer)


def test_subclass_that_keeps_the_update_is_known():
    class Renamed(keras.optimizers.Adam):
        pass

    assert keras_aeos.stability_threshold(Renamed(RATE)) == pytest.approx(38 / RATE, rel=1e-6)


def test_preconditioner_before_the_first_update_is_refused():
    optimizer = keras_aeos.optimizers.Adam(RATE)
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(ValueError, match="iterations=0"):
        keras_aeos.preconditioner(optimizer)
