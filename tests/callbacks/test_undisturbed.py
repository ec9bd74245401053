"""Training with the monitor is training without it."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor
from tests.cases import build, fit_one
from tests.strategies import scope, under_each

RATE = 0.01


def stochastic(optimizer, **compile_options):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.4),
            layers.Dense(3),
        ]
    )
    model.compile(optimizer, loss="mse", metrics=["mae"], **compile_options)
    return model


# name: (optimizer, compile options, options of the monitor, strategy)
POWER = keras_aeos.Eigensolver("power", max_hvps=400)
UNDISTURBED: dict[str, tuple] = {
    "custom adam": (lambda: keras_aeos.optimizers.Adam(RATE), {}, {}, None),
    "custom rmsprop": (lambda: keras_aeos.optimizers.RMSprop(RATE), {}, {}, None),
    "custom gd": (lambda: keras_aeos.optimizers.GradientDescent(RATE), {}, {}, None),
    "adam": (lambda: keras.optimizers.Adam(RATE), {}, {}, None),
    "power": (lambda: keras.optimizers.Adam(RATE), {}, {"solver": POWER}, None),
    "passes": (
        lambda: keras.optimizers.Adam(RATE),
        {},
        {"quantities": ["critical_learning_rate", "edge_layer"]},
        None,
    ),
    "given data": (lambda: keras.optimizers.AdamW(RATE), {}, {"data": "given"}, None),
    "executions": (lambda: keras.optimizers.RMSprop(RATE), {"steps_per_execution": 4}, {}, None),
    "eager": (lambda: keras.optimizers.SGD(RATE, 0.9), {"run_eagerly": True}, {}, None),
    "xla": (lambda: keras.optimizers.Adam(RATE), {"jit_compile": True}, {}, None),
    "accumulation": (
        lambda: keras_aeos.optimizers.Adam(RATE, gradient_accumulation_steps=2), {}, {}, None,
    ),
    "loss scaling": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(RATE)), {}, {}, None,
    ),
    "ema": (lambda: keras.optimizers.Adam(RATE, use_ema=True), {}, {}, None),
    "mirrored custom": (lambda: keras_aeos.optimizers.Adam(RATE), {}, {}, "mirrored 2"),
    "mirrored rmsprop": (lambda: keras_aeos.optimizers.RMSprop(RATE), {}, {}, "mirrored 2"),
    "one device": (lambda: keras.optimizers.Adam(RATE), {}, {}, "one device"),
    "mirrored adam": (lambda: keras.optimizers.Adam(RATE), {}, {}, "mirrored 4"),
    "mirrored sgd": (
        lambda: keras.optimizers.SGD(RATE, 0.9), {}, {"data": "given"}, "mirrored 2",
    ),
}  # fmt: skip
# Those that take a way of their own through Keras or the monitor.
DISTINCT = (
    *("custom adam", "adam", "given data", "executions", "xla", "accumulation", "loss scaling"),
    "mirrored adam",
)


@pytest.mark.parametrize(
    "name", [n if n in DISTINCT else pytest.param(n, marks=pytest.mark.slow) for n in UNDISTURBED]
)
def test_training_is_bit_identical_with_and_without_the_monitor(name):
    make_optimizer, compile_options, monitor_options, strategy = UNDISTURBED[name]
    generator = np.random.default_rng(0)
    # An uneven last batch, but not of fewer rows than replicas: Keras trains these to NaN.
    size = 44 if strategy == "mirrored 4" else 42
    x, y = generator.standard_normal((size, 4)), generator.standard_normal((size, 3))

    def train(watched):
        keras.utils.set_random_seed(7)
        with scope(strategy or "none"):
            model = stochastic(make_optimizer(), **compile_options)
        monitor = AEoSMonitor(
            **{"update_freq": 5}
            | monitor_options
            | ({"data": (x, y)} if "data" in monitor_options else {})
        )
        logs = model.fit(
            x, y, batch_size=8, epochs=2, verbose=0, callbacks=[monitor] if watched else []
        )
        state = model.variables + model.optimizer.variables
        return [v.numpy() for v in state], logs.history, monitor.history

    plain, plain_logs, _ = train(watched=False)
    watched, watched_logs, history = train(watched=True)
    assert len(history) >= 1
    assert history["converged"].all()
    assert {name: watched_logs[name] for name in plain_logs} == plain_logs
    for ours, theirs in zip(watched, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@under_each
@pytest.mark.parametrize("inside", [False, True])
def test_measurement_is_that_of_one_device(strategy, inside):
    """Whether `fit` is called inside the strategy's scope or not; Keras scales losses inside."""
    with scope(strategy):
        model, x, y = build("regularised", keras.optimizers.Adam(RATE))
    monitor = AEoSMonitor((x, y), update_freq=1)
    with scope(strategy if inside else "none"):
        row = fit_one(model, x, y, monitor)
    weights = [v.numpy() for v in model.trainable_variables]
    diagonal = [p.numpy() for p in keras_aeos.preconditioner(model.optimizer)]

    single, x, y = build("regularised")
    single.set_weights(weights)
    direct = keras_aeos.top_eigenpairs(single, (x, y), preconditioner=diagonal)
    assert row["preconditioned_sharpness"] == pytest.approx(direct.eigenvalues[0], rel=1e-4)
    assert row["loss"] == pytest.approx(single.evaluate(x, y, batch_size=12, verbose=0), rel=1e-5)


def test_model_is_left_as_it_was_and_trains_on_without_the_monitor():
    model, x, y = build("dense", "adam")
    fit_one(model, x, y, AEoSMonitor(update_freq=1))
    assert not {"train_step", "make_train_function"} & set(model.__dict__)
    logs = model.fit(x, y, verbose=0).history
    assert set(logs) == {"loss"}


def test_interrupted_fit_does_no_harm():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, x, y = build("dense", "adam")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[AEoSMonitor(update_freq=1), Interrupt()])
    model.compile("adam", loss="mse", metrics=["mae"])
    assert set(model.fit(x, y, verbose=0).history) == {"loss", "mae"}
    fit_one(model, x, y, AEoSMonitor(update_freq=1))
    assert "make_train_function" not in model.__dict__
