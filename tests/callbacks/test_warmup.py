"""The warm-up by curvature: on quadratics by closed form, and beside all that `fit` can do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos import AEoSMonitor, CurvatureWarmup
from tests.strategies import scope

# A quadratic: a linear map without bias and the squared error, whose Hessian is 2 XᵀX / n.
GENERATOR = np.random.default_rng(0)
# Positive inputs and errors: the gradients of all examples have a part in common.
X = GENERATOR.uniform(0.5, 1.5, (16, 3)).astype("f")
Y = X @ np.array([[1.0], [-1.0], [0.5]], "f")
START = np.array([[2.0], [1.0], [1.5]], "f")
FACTOR = 0.5


def quadratic(rate, strategy="none", **options):
    with scope(strategy):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
        optimizer = rate if isinstance(rate, keras.Optimizer) else keras.optimizers.SGD(rate)
        model.compile(optimizer, "mse", **options)
    model.set_weights([START])
    return model


def fit(model, num_updates, *callbacks, initial=0, **options):
    options = {"batch_size": len(X), "shuffle": False, "verbose": 0} | options
    return model.fit(
        X, Y, epochs=num_updates, initial_epoch=initial, callbacks=list(callbacks), **options
    ).history


def gradient(weights, rows):
    return 2.0 * X[rows].T @ (X[rows] @ weights - Y[rows]) / len(X[rows])


def critical(weights, begin=0, end=16):
    """η_c in closed form: the direction is of the first half, the loss of the second."""
    first, second = np.split(np.arange(begin, end), [(end - begin) // 2])
    direction = -gradient(weights, first)
    curvature = 2.0 * np.sum((X[second] @ direction) ** 2) / len(second)
    return -2.0 * np.sum(gradient(weights, second) * direction) / curvature


def expected(target, num_updates):
    """The learning rates of gradient descent with the warm-up, and the weights, by hand."""
    weights, limit, due, rates = START.astype(float), 0.0, 1, []
    for step in range(1, num_updates + 1):
        wanted = target(step - 1)
        rates.append(min(wanted, limit))
        weights = weights - rates[-1] * gradient(weights, np.arange(16))
        if step >= due and limit < np.inf:
            limit = max(limit, FACTOR * critical(weights))
            limit = np.inf if target(step) <= limit else limit
            due = step + 1 + step // 8
    return rates, weights


def cosine(peak, num_updates):
    return keras.optimizers.schedules.CosineDecay(peak, num_updates)


TARGETS = {
    "never allowed": (lambda: 10.0, lambda step: 10.0),
    "cosine": (
        lambda: cosine(10.0, 15),
        lambda step: 10.0 * (0.5 + 0.5 * np.cos(np.pi * step / 15)),
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_learning_rate_is_the_target_or_a_part_of_the_critical_one(name):
    made, target = TARGETS[name]
    model, warm_up = quadratic(made()), CurvatureWarmup(factor=FACTOR)
    history = fit(model, 11, warm_up)
    rates, weights = expected(target, 11)
    assert history["warmup_learning_rate"] == pytest.approx(rates, rel=5e-2)
    assert model.get_weights()[0] == pytest.approx(weights, rel=5e-2, abs=1e-3)
    assert rates[0] == 0.0
    seen = warm_up.history
    assert seen["critical_learning_rate"][0] == pytest.approx(critical(START), rel=3e-2)
    if name == "never allowed":
        assert seen["step"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10]


def network(optimizer, **options):
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((3,)), *stack, layers.Dense(1)])
    model.compile(optimizer, "mse", **options)
    return model


class From(keras.callbacks.Callback):
    """Keeps the state of a model after an update."""

    def __init__(self, step):
        super().__init__()
        self.step = step
        self.state: list[np.ndarray] = []

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.state = state(self.model)


def state(model):
    seeds = [generator.state for layer in model.layers for generator in layer._seed_generators]
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables, *seeds)]


def test_hands_over_to_the_schedule_exactly():
    """From the end on, training is bit for bit that without the callback."""
    warm_up, kept = CurvatureWarmup(), From(4)
    model = network(keras.optimizers.Adam(cosine(1e-3, 12)))
    fit(model, 12, warm_up, kept)
    assert warm_up.history["step"].tolist() == [1]
    other = network(keras.optimizers.Adam(cosine(1e-3, 12)))
    other.optimizer.build(other.trainable_variables)
    for variable, value in zip(
        (*other.variables, *other.optimizer.variables), kept.state, strict=False
    ):
        variable.assign(value)
    seeds = [g.state for layer in other.layers for g in layer._seed_generators]
    for variable, value in zip(seeds, kept.state[-len(seeds) :], strict=True):
        variable.assign(value)
    fit(other, 12, initial=4)
    assert all(map(np.array_equal, state(model), state(other)))


class Killed(BaseException):
    """As a kill, it is caught by nobody."""


class Kill(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 3:
            raise Killed


@pytest.mark.parametrize(
    ("rate", "last"), [(10.0, False), ("cosine", True)], ids=["backup first", "backup last"]
)
def test_resumed_training_is_the_same(tmp_path, rate, last):
    def made():
        return quadratic(cosine(10.0, 12) if rate == "cosine" else rate)

    whole = made()
    rates = fit(whole, 6, CurvatureWarmup())["warmup_learning_rate"]
    backup = str(tmp_path / "backup")
    callbacks = [keras.callbacks.BackupAndRestore(backup), CurvatureWarmup()]
    with pytest.raises(Killed):
        fit(made(), 6, *callbacks[:: -1 if last else 1], Kill())
    model = made()
    callbacks = [keras.callbacks.BackupAndRestore(backup), CurvatureWarmup()]
    resumed = fit(model, 6, *callbacks[:: -1 if last else 1])["warmup_learning_rate"]
    assert resumed == rates[-len(resumed) :]
    assert len(resumed) in (2, 3)
    assert all(map(np.array_equal, state(whole), state(model)))


def test_second_fit_goes_on():
    model, other = quadratic(10.0), quadratic(10.0)
    whole = fit(other, 5, CurvatureWarmup())["warmup_learning_rate"]
    parts = [
        fit(model, *span, CurvatureWarmup(), initial=begin)["warmup_learning_rate"]
        for begin, span in ((0, (2,)), (2, (5,)))
    ]
    assert [*parts[0], *parts[1]] == whole


def test_optimizer_and_saved_model_have_the_learning_rate_of_the_user(tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            path = tmp_path / "model.keras"
            self.model.save(path)
            seen.append(keras.models.load_model(path).optimizer.get_config()["learning_rate"])

    schedule = cosine(10.0, 12)
    model = quadratic(schedule)
    fit(model, 2, Look(), CurvatureWarmup())
    assert model.optimizer._learning_rate is schedule
    assert [each["config"] for each in seen] == [schedule.get_config()] * 2
    seen.clear()
    model = quadratic(10.0)
    fit(model, 2, Look(), CurvatureWarmup())
    assert [*seen, float(model.optimizer.learning_rate)] == [10.0] * 3


@pytest.mark.parametrize("rate", [10.0, "cosine"])
def test_interrupted_training_leaves_the_learning_rate(rate):
    """By an error of the training function, between the callbacks of a batch."""
    given = cosine(10.0, 12) if rate == "cosine" else rate
    model = quadratic(given)

    def batches():
        yield X, Y
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, tf.errors.OpError)):
        model.fit(batches(), epochs=2, steps_per_epoch=2, verbose=0, callbacks=[CurvatureWarmup()])
    present = model.optimizer._learning_rate
    assert present is given if rate == "cosine" else float(present) == given
    before = model.get_weights()[0].astype(float)
    fit(model, 2, initial=1)  # in the trace of the training that was interrupted
    step = float(given(int(model.optimizer.iterations) - 1)) if rate == "cosine" else given
    assert model.get_weights()[0] == pytest.approx(
        before - step * gradient(before, np.arange(16)), rel=1e-4
    )


def optimizers():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(10.0), initial_scale=1024.0)
    return {
        "compiled": lambda: (cosine(10.0, 8), {"jit_compile": True}),
        "loss scale": lambda: (scaled, {}),
        "steps per execution": lambda: (10.0, {"steps_per_execution": 2}),
        "accumulation": lambda: (
            keras.optimizers.SGD(10.0, gradient_accumulation_steps=2),
            {},
        ),
        "function": lambda: (keras.optimizers.SGD(lambda: tf.constant(10.0)), {}),
    }


@pytest.mark.parametrize("name", optimizers())
def test_is_at_home_in_fit(name):
    """η is a part of the first critical learning rate in the update after its measurement."""
    rate, options = optimizers()[name]()
    model, warm_up = quadratic(rate, **options), CurvatureWarmup(factor=FACTOR)
    fit(model, 2, warm_up, batch_size=4)
    seen = warm_up.history
    # The weights have not moved when the last batch of the first execution is measured.
    place = {"steps per execution": 4, "accumulation": 4}.get(name, 0)
    by_hand = critical(START, place, place + 4)
    assert seen["critical_learning_rate"][0] == pytest.approx(by_hand, rel=3e-2)
    assert 0.0 < seen["learning_rate"][0] < 10.0
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize("rate", [10.0, pytest.param("cosine", marks=pytest.mark.slow)])
def test_replicas_have_the_learning_rates_of_one(rate):
    found = []
    for strategy in ("none", "mirrored 2"):
        model = quadratic(cosine(10.0, 8) if rate == "cosine" else rate, strategy)
        found.append(fit(model, 3, CurvatureWarmup())["warmup_learning_rate"])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[0][1] > 0.0


def test_other_callbacks_change_the_target():
    scheduled = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 if epoch >= 4 else 10.0)
    model = quadratic(10.0)
    rates = fit(model, 8, scheduled, CurvatureWarmup())["warmup_learning_rate"]
    assert min(rates[1:4]) > 1e-3
    assert rates[4:] == pytest.approx([1e-3] * 4)


def test_monitor_has_the_limited_learning_rate():
    monitor, model = AEoSMonitor((X, Y), update_freq=1), quadratic(cosine(10.0, 8))
    rates = fit(model, 3, monitor, CurvatureWarmup())["warmup_learning_rate"]
    assert monitor.history["learning_rate"].tolist() == pytest.approx(rates)


def test_measurement_changes_nothing():
    """The weights, moments, statistics and seeds are those of a training with η = 0 at first."""
    plain, model = (network(keras.optimizers.Adam(1e-3)) for _ in range(2))
    zero = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 if epoch else 0.0)
    fit(plain, 4, zero)
    warm_up = CurvatureWarmup()
    fit(model, 4, warm_up)
    assert (warm_up.history["num_passes"] > 0).all()
    assert all(map(np.array_equal, state(plain), state(model)))


def test_failure_lets_the_learning_rate_of_the_optimizer_through(monkeypatch):
    def fail(*_):
        raise RuntimeError("no passes")

    monkeypatch.setattr("keras_aeos.callbacks.warmup.of_next_update", fail)
    model = quadratic(1e-3)
    with pytest.warns(UserWarning, match="warm-up failed.*RuntimeError: no passes"):
        rates = fit(model, 3, CurvatureWarmup())["warmup_learning_rate"]
    assert rates == pytest.approx([0.0, 1e-3, 1e-3])


def test_halves_that_contradict_each_other_do_not_stop_training():
    model = quadratic(0.01)
    model.set_weights([np.zeros((3, 1))])
    labels = np.repeat([[1.0], [-1.0]], 8, axis=0)
    with pytest.warns(UserWarning, match="warm-up failed.*larger batches.*batches of 16 examples"):
        rates = model.fit(
            np.ones((16, 3)),
            labels,
            batch_size=16,
            epochs=9,
            shuffle=False,
            verbose=0,
            callbacks=[CurvatureWarmup()],
        ).history["warmup_learning_rate"]
    assert rates == pytest.approx([0.0] * 8 + [0.01])


def test_loop_other_than_fit_has_the_learning_rate_of_the_optimizer():
    model = quadratic(1e-2)
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(X, Y, model(X, training=True))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables))

    weights = START
    callbacks = keras.callbacks.CallbackList([CurvatureWarmup()], model=model)
    callbacks.on_train_begin()
    for batch in range(3):
        callbacks.on_train_batch_begin(batch)
        update()
        if batch == 0:
            with pytest.warns(UserWarning, match="warm-up failed.*batches are not seen.*`fit`"):
                callbacks.on_train_batch_end(batch)
            assert np.array_equal(model.get_weights()[0], START)
        else:
            weights = weights - 1e-2 * gradient(weights, np.arange(16))
            callbacks.on_train_batch_end(batch)
    callbacks.on_train_end()
    assert model.get_weights()[0] == pytest.approx(weights, rel=1e-5)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_fits_in_low_precision(precision):
    """In mixed_float16 the loss is scaled, and the first updates, which overflow, are left out."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = quadratic(10.0)
    finally:
        keras.config.set_dtype_policy(before)
    warm_up = CurvatureWarmup(factor=FACTOR)
    rates = np.trim_zeros(fit(model, 12, warm_up)["warmup_learning_rate"])
    assert len(rates) >= 8
    exact, _ = expected(lambda step: 10.0, 1 + len(rates))
    assert rates == pytest.approx(exact[1:], rel=0.05)
