"""What the monitor measures, on what `fit` takes, and when."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor
from keras_aeos.callbacks.quantities import DEFAULT
from tests.cases import build, dense_hessian, fit_one, flat, two_outputs

RATE = 0.01


# ------------------------------------------------------------------------------------ the numbers


class Batches(keras.utils.PyDataset):
    """The examples in batches, as ``(x, y, weights)``."""

    def __init__(self, *arrays, batch_size):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size

    def __len__(self):
        return -(-len(self.arrays[1]) // self.batch_size)

    def __getitem__(self, i):
        rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
        return tuple(array[rows] for array in self.arrays)


def feed_arrays(x, y):
    return {"x": x, "y": y, "batch_size": len(x), "shuffle": False}


def feed_dataset(x, y):
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x))}


def feed_py_dataset(x, y):
    return {"x": Batches(x, y, batch_size=len(x)), "shuffle": False}


def feed_generator(x, y):
    return {"x": ((x, y) for _ in range(10)), "steps_per_epoch": 1}


FEEDS = [feed_arrays, feed_dataset, feed_py_dataset, feed_generator]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("feed", FEEDS)
def test_row_is_the_state_after_its_update(tmp_path, feed, given):
    """Every number of a row against the dense Hessian at the weights that `fit` left behind."""
    keras.config.set_floatx("float64")
    model, x, y = build("batch_normalised", keras_aeos.optimizers.Adam(RATE))
    monitor = AEoSMonitor(
        (x, y) if given else None,
        update_freq=3,
        quantities=DEFAULT,
        num_eigenvalues=2,
        log_dir=tmp_path,
    )
    model.fit(**feed(x, y), epochs=3, verbose=0, callbacks=[monitor])

    (row,) = monitor.history.to_dict("records")
    hessian = dense_hessian(model, x, y)
    p = flat(keras_aeos.preconditioner(model.optimizer))
    top = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))[::-1]
    loss = float(model.compute_loss(tf.constant(x), y, model(tf.constant(x), training=True)))
    assert (row["step"], row["epoch"]) == (3, 2)
    assert row["learning_rate"] == pytest.approx(RATE, rel=1e-6)
    assert row["loss"] == pytest.approx(loss, rel=1e-9)
    assert row["preconditioned_sharpness"] == pytest.approx(top[0], rel=1e-5)
    assert row["preconditioned_sharpness_2"] == pytest.approx(top[1], rel=1e-5)
    assert row["sharpness"] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-5)
    assert row["stability_threshold"] == pytest.approx(38 / RATE, rel=1e-6)
    assert row["edge_ratio"] == pytest.approx(top[0] / (38 / RATE), rel=1e-5)
    assert row["preconditioner_norm_squared"] == pytest.approx(np.sum(p**2), rel=1e-9)
    assert row["residual"] <= 1e-3
    assert row["converged"]


def test_gradient_norm_is_that_of_the_training_loss(tmp_path):
    model, x, y = build("dense", keras.optimizers.SGD(RATE))
    monitor = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path)
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[monitor])
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    gradient = flat(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    assert monitor.history["gradient_norm_squared"][0] == pytest.approx(
        gradient @ gradient, rel=1e-5
    )


def test_gradient_descent_is_measured_once():
    """With P = I the raw and the preconditioned sharpness are one number and one solve."""
    model, x, y = build("dense", keras_aeos.optimizers.GradientDescent(RATE))
    monitor = AEoSMonitor((x, y), update_freq=1)
    row = fit_one(model, x, y, monitor)
    assert row["preconditioned_sharpness"] == row["sharpness"]
    assert row["num_hvps"] == keras_aeos.top_eigenpairs(model, (x, y), seed=1).num_hvps


# -------------------------------------------------------------------------------- what `fit` takes


def test_class_and_sample_weights_are_part_of_the_loss():
    labels = np.arange(12) % 3
    weights = np.linspace(0.5, 2.0, 12)
    class_weight = {0: 1.0, 1: 3.0, 2: 0.2}
    x = np.random.default_rng(0).standard_normal((12, 4))

    def model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
        model.compile(
            keras.optimizers.SGD(RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    row = fit_one(model(), x, labels, AEoSMonitor(update_freq=1), class_weight=class_weight)
    by_class = np.array([1.0, 3.0, 0.2])[labels]
    given = fit_one(
        model(),
        x,
        labels,
        AEoSMonitor((x, labels, by_class), update_freq=1),
        class_weight=class_weight,
    )
    assert row["sharpness"] == pytest.approx(given["sharpness"], rel=1e-5)
    plain = fit_one(model(), x, labels, AEoSMonitor(update_freq=1))
    assert abs(row["loss"] / plain["loss"] - 1.0) > 1e-3

    row = fit_one(model(), x, labels, AEoSMonitor(update_freq=1), sample_weight=weights)
    given = fit_one(
        model(), x, labels, AEoSMonitor((x, labels, weights), update_freq=1), sample_weight=weights
    )
    assert row["sharpness"] == pytest.approx(given["sharpness"], rel=1e-5)
    assert abs(row["loss"] / plain["loss"] - 1.0) > 1e-3


class Subclassed(keras.Model):
    """Unbuilt until its first batch, with an unsupervised loss and inputs in a tuple."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        first, second = inputs
        y = self.dense(first * second)
        self.add_loss(keras.ops.mean(y**2))
        return y


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_dictionaries_and_several_outputs(steps_per_execution, as_dataset):
    model, x, y = two_outputs(keras.optimizers.Adam(RATE))
    model.steps_per_execution = steps_per_execution
    monitor = AEoSMonitor(update_freq=2)
    if as_dataset:
        data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(4)}
    else:
        data = {"x": x, "y": y, "batch_size": 4}
    model.fit(**data, epochs=4, verbose=0, callbacks=[monitor])
    # Three batches an epoch; with two steps an execution, executions end after two and three.
    assert monitor.history["step"].tolist() == (
        [2, 4, 6, 8, 10, 12] if steps_per_execution == 1 else [2, 5, 6, 8, 11, 12]
    )
    assert (monitor.history["preconditioned_sharpness"] > 0).all()


def test_subclassed_model_without_targets():
    model = Subclassed()
    model.compile(keras.optimizers.SGD(RATE))
    x = [np.ones((8, 4), "f"), np.full((8, 4), 0.5, "f")]
    data = tf.data.Dataset.from_tensor_slices((tuple(x),)).batch(4)
    monitor = AEoSMonitor(update_freq=1)
    model.fit(data, epochs=2, verbose=0, callbacks=[monitor])
    # mean over 3 outputs of (w·x + b)² with x = 0.5 in 4 places: 2/3 (4·0.25 + 1)
    np.testing.assert_allclose(monitor.history["sharpness"], 4 / 3, rtol=1e-3)


def test_own_train_step_is_kept():
    class Own(keras.Model):
        num_calls = 0

        def train_step(self, data):
            Own.num_calls += 1
            return super().train_step(data)

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile(keras.optimizers.SGD(RATE), loss="mse")
    x, y = np.ones((8, 4), "f"), np.ones((8, 3), "f")
    fit_one(model, x, y, AEoSMonitor(update_freq=1))
    assert Own.num_calls > 0
    assert "train_step" not in model.__dict__
    assert "make_train_function" not in model.__dict__


# ------------------------------------------------------------------------ when, and on how many


@pytest.mark.parametrize(
    ("steps_per_execution", "expected"),
    # Ten batches an epoch: executions end at steps 4, 8, 10, 14, 18, 20 if four steps are one.
    [(1, [3, 6, 9, 12, 15, 18]), (4, [4, 8, 10, 14, 18])],
)
def test_measures_when_a_multiple_is_reached_or_passed(steps_per_execution, expected):
    model, _, _ = build("dense", "adam", steps_per_execution=steps_per_execution)
    x, y = np.ones((40, 4), "f"), np.eye(3)[np.arange(40) % 3]
    monitor = AEoSMonitor(update_freq=3)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.history["step"].tolist() == expected


def test_accumulated_steps_count_once():
    model, x, y = build("dense", keras_aeos.optimizers.Adam(RATE, gradient_accumulation_steps=3))
    monitor = AEoSMonitor(update_freq=2)
    model.fit(x, y, batch_size=4, epochs=4, verbose=0, callbacks=[monitor])
    assert monitor.history["step"].tolist() == [2, 4]


def probe_sizes(monitor):
    return [len(leaves[0]) for leaves in monitor._meter.examples]


def first_inputs(monitor):
    return next(iter(monitor._meter.examples))[0]


@pytest.mark.parametrize(
    ("update_freq", "probe_size", "first", "second"),
    [
        (4, 9, [4, 4, 4], [4, 4, 4]),
        (2, 100, [4, 4], [4]),  # the second `fit` begins at step 5 and is measured at 6
        (1, 100, [4], [4]),
        (4, 4, [4], [4]),
        (4, 1, [4], [4]),
    ],
)
def test_probe_set_is_gathered_in_whole_batches_of_each_fit(update_freq, probe_size, first, second):
    model, x, y = build("dense", "sgd", num_examples=20)
    monitor = AEoSMonitor(update_freq=update_freq, probe_size=probe_size)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False, callbacks=[monitor])
    assert probe_sizes(monitor) == first
    np.testing.assert_allclose(first_inputs(monitor), x[:4], rtol=1e-6)
    model.fit(-x, y, batch_size=4, epochs=1, verbose=0, shuffle=False, callbacks=[monitor])
    assert probe_sizes(monitor) == second
    np.testing.assert_allclose(first_inputs(monitor), -x[:4], rtol=1e-6)


def num_traces(monitor):
    return monitor._meter.meter._objective.num_traces


def test_second_fit_goes_on_and_traces_nothing_again():
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor((x, y), update_freq=2, log_dir="logs")
    for _ in range(2):
        model.fit(x, y, batch_size=3, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.history["step"].tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    assert num_traces(monitor) == 1
    assert pd.read_csv("logs/metrics.csv")["step"].tolist() == monitor.history["step"].tolist()


def test_frozen_layers_are_not_parameters():
    model, x, y = build("dense", "adam")
    model.layers[0].trainable = False
    model.compile("adam", loss="mse")
    row = fit_one(model, x, y, AEoSMonitor(update_freq=1, quantities=["sharpness"]))
    hidden = model.layers[0](x).numpy()
    design = np.c_[hidden, np.ones(len(x))]
    top = np.linalg.eigvalsh(2 / 3 * design.T @ design / len(x))[-1]
    assert row["sharpness"] == pytest.approx(top, rel=1e-3)
