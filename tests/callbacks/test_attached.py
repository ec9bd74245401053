"""A monitor measures what the present `fit` trains: its model, variables, loss and examples."""

import contextlib
import copy
import pickle
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor, Eigensolver
from tests.cases import build, fit_one, flat
from tests.strategies import scope

RATE = 1e-3
GENERATOR = np.random.default_rng(0)
X, Y = (
    GENERATOR.standard_normal((42, 4)).astype("f"),
    GENERATOR.standard_normal((42, 3)).astype("f"),
)
LABELS = np.arange(42) % 3


def network(optimizer="sgd", loss="mse", activation=None, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(3, activation)]
    )
    model.compile(optimizer, loss, **options)
    return model


def sharpness(model, x, y, *weights, **options):
    """λ₁(H) of the loss of these examples in one batch."""
    solver = Eigensolver(rtol=1e-5)
    result = keras_aeos.top_eigenpairs(model, (x, y, *weights), solver=solver, **options)
    return result.eigenvalues[0]


def monitor(data=None, **options):
    defaults: dict[str, Any] = {
        "update_freq": 1,
        "solver": Eigensolver(rtol=1e-5),
        "quantities": ["sharpness", "gradient_norm_squared", "batch_sharpness"],
    }
    return AEoSMonitor(data, **defaults | options)


# ------------------------------------------------------------------------------------- replicas


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(
    "strategy", ["one device", "mirrored 2", pytest.param("mirrored 4", marks=pytest.mark.slow)]
)
def test_rows_are_those_of_the_examples_of_all_replicas(labels, strategy):
    """Of five batches, the last one of seven."""
    y, loss = (LABELS, keras.losses.SparseCategoricalCrossentropy(True)) if labels else (Y, "mse")
    weights = np.linspace(0.5, 2.0, 39)

    def history(strategy):
        with scope(strategy):
            model = network(keras.optimizers.SGD(0.0), loss)
        watching = monitor(update_freq=5, probe_size=39)
        fed = {"x": X[:39], "y": y[:39], "sample_weight": weights, "shuffle": False}
        model.fit(**fed, batch_size=8, verbose=0, callbacks=[watching])
        assert sum(len(leaves[0]) for leaves in watching._meter.examples) == 39
        return watching.history

    columns = ["step", "loss", "sharpness", "gradient_norm_squared", "batch_sharpness"]
    one, several = history("none"), history(strategy)
    np.testing.assert_allclose(several[columns], one[columns], rtol=1e-4)


# --------------------------------------------------------------------------------- several fits


def other_loss(model):
    model.compile(keras.optimizers.SGD(RATE), "mae", loss_weights=[3.0])
    return model, X, Y


def other_data(model):
    return model, 3.0 * X, Y


def other_model(model):
    return network("adam", "huber"), 2.0 * X, Y


def same_optimizer_other_loss(model):
    model.compile(model.optimizer, keras.losses.Huber(0.1))
    return model, X, Y


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("change", [other_loss, other_data, other_model, same_optimizer_other_loss])
def test_monitor_of_an_earlier_fit_measures_the_present_one(change, given):
    model = network()
    watching = monitor((X, Y) if given else None)
    fit_one(model, X, Y, watching)
    model, x, y = change(model)
    model.fit(x, y, batch_size=42, verbose=0, callbacks=[watching])
    if given:
        x, y = X, Y
    assert len(watching.history) == 2
    last = watching.history.iloc[-1]
    assert last["step"] == int(model.optimizer.iterations)
    assert last["sharpness"] == pytest.approx(sharpness(model, x, y), rel=1e-4)


@pytest.mark.parametrize("first", [False, True])
def test_weights_in_only_one_of_two_fits(first):
    model, weights = network(), np.linspace(0.1, 3.0, 42).astype("f")
    watching = monitor()
    for weighted in (first, not first):
        options = {"sample_weight": weights} if weighted else {}
        model.fit(X, Y, batch_size=42, shuffle=False, verbose=0, callbacks=[watching], **options)
        expected = sharpness(model, X, Y, *options.values())
        assert watching.history["sharpness"].iloc[-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("watched_before", [False, True])
@pytest.mark.filterwarnings("default::UserWarning")  # two are given if nothing was seen before
def test_change_of_trainable_without_compiling_trains_as_without_the_monitor(
    trainable, given, watched_before
):
    def train(watched):
        model = network()
        model.layers[0].trainable = not trainable
        model.compile("adam", "mse")
        rows = []
        for trained in (not trainable, trainable):
            model.layers[0].trainable = trained
            seen = watched and (watched_before or trained == trainable)
            watching = [monitor((X, Y) if given else None, update_freq=2)] if seen else []
            model.fit(X, Y, batch_size=14, shuffle=False, verbose=0, callbacks=watching)
            rows += [len(w.history) for w in watching]
        return flat(model.weights), rows

    plain, _ = train(watched=False)
    seen = watched_before or given
    expected = "`trainable` has changed" if seen else "no batch of `fit` has been seen"
    with pytest.warns(UserWarning, match=expected):
        watched, rows = train(watched=True)
    np.testing.assert_array_equal(watched, plain)
    assert rows[-1] == (2 if seen else 0)


def test_restored_optimizer_is_counted_from_where_it_was_restored(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError

    for crash in ([Crash()], []):
        watching = monitor((X, Y), update_freq=5)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        with contextlib.suppress(RuntimeError):
            network("adam").fit(
                X, Y, batch_size=6, epochs=4, verbose=0, callbacks=[watching, backup, *crash]
            )
    assert watching.history["step"].tolist() == [15, 20, 25]


# ------------------------------------------------------------------------- what `fit` feeds it


def weights_of(kind):
    by_class = np.array([10.0, 1.0, 0.1])[LABELS]
    return {
        "class": ({"class_weight": {0: 10.0, 1: 1.0, 2: 0.1}}, by_class),
        "sample, by label": ({"sample_weight": by_class}, by_class),
        "sample": ({"sample_weight": np.linspace(0.5, 2.0, 42)}, None),
    }[kind]


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("kind", ["class", "sample, by label", "sample"])
def test_weights_of_fit_are_applied_to_data_or_missed(kind, one_hot):
    options, applied = weights_of(kind)
    y = np.eye(3)[LABELS] if one_hot else LABELS
    name = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    model = network(loss=getattr(keras.losses, name)(from_logits=True))
    watching = monitor((X, y))
    missed = applied is None
    with pytest.warns(UserWarning, match="lacks") if missed else contextlib.nullcontext():
        row = fit_one(model, X, y, watching, **options)
    expected = sharpness(model, X, y, *([] if missed else [applied]))
    assert row["sharpness"] == pytest.approx(expected, rel=1e-4)
    assert row["exact"] is not missed


class Masked(keras.losses.Loss):
    """Mean over the entries that aren't zero, as of sentences with padding."""

    def __init__(self):
        super().__init__(reduction=None)

    def call(self, y, outputs):
        mask = keras.ops.cast(y > 0, outputs.dtype)
        return keras.ops.sum(mask * keras.ops.square(y - outputs)) / keras.ops.sum(mask)


def contrastive(y, outputs):
    return keras.losses.sparse_categorical_crossentropy(
        keras.ops.arange(keras.ops.shape(outputs)[0]),
        keras.ops.matmul(outputs, keras.ops.transpose(outputs)),
        from_logits=True,
    )


NO_MEANS = {
    "sum": lambda: keras.losses.MeanSquaredError(reduction="sum"),
    "masked": Masked,
    "contrastive": lambda: contrastive,
}


@pytest.mark.parametrize("name", NO_MEANS)
def test_loss_that_is_no_mean_is_measured_in_the_batch_size_of_fit(name):
    model = network(loss=NO_MEANS[name]())
    options = {"update_freq": 6, "solver": Eigensolver(rtol=1e-4)}  # rounding allows no 1e-5
    given, seen = monitor((X, Y), **options), monitor(probe_size=42, **options)
    model.fit(X, Y, batch_size=7, shuffle=False, verbose=0, callbacks=[given, seen])
    expected = sharpness(model, X, Y, batch_size=7)
    assert abs(sharpness(model, X, Y) / expected - 1.0) > 1e-2
    for watching in (given, seen):
        assert watching.history["sharpness"][0] == pytest.approx(expected, rel=1e-4)
        assert watching.history["exact"].all()


def test_loss_that_is_no_mean_in_other_batches_is_named():
    model = network(loss=NO_MEANS["sum"]())
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    watching = monitor(data, update_freq=6)
    with pytest.warns(UserWarning, match="in batches of 4, `fit` trains on batches of 7"):
        model.fit(X, Y, batch_size=7, verbose=0, callbacks=[watching])
    assert not watching.history["exact"].any()


class Change(keras.callbacks.Callback):
    """Lowers the learning rate at every batch, at its beginning or at its end."""

    def __init__(self, at):
        super().__init__()
        setattr(self, at, self.lower)

    def lower(self, batch, logs=None):
        rate = self.model.optimizer.learning_rate
        rate.assign(0.9 * rate)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("at", ["on_train_batch_begin", "on_train_batch_end"])
def test_learning_rate_is_that_of_the_update(at, first):
    model, before = network(keras.optimizers.SGD(0.1)), []
    weights = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs=None: before.append(flat(model.weights))
    )
    watching = monitor((X, Y), quantities=["gradient_norm_squared"])
    both = [watching, Change(at)] if first else [Change(at), watching]
    model.fit(X, Y, batch_size=42, epochs=4, verbose=0, callbacks=[weights, *both])
    lowered = 1 if at == "on_train_batch_begin" else 0
    expected = [0.1 * 0.9 ** (update + lowered) for update in range(4)]
    np.testing.assert_allclose(watching.history["learning_rate"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        watching.history["stability_threshold"], 2.0 / np.array(expected), rtol=1e-5
    )
    # The update itself: the distance is η times the norm of the gradient before it.
    moved = np.diff(np.array([*before, flat(model.weights)]), axis=0)[1:]
    norms = np.sqrt(watching.history["gradient_norm_squared"])[:-1]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1) / norms, expected[1:], rtol=1e-3)


def test_update_over_several_steps_is_not_taken_for_the_last_one():
    model = network(steps_per_execution=3)
    watching = monitor((X, Y), update_freq=3, quantities=["update_curvature"])
    with pytest.warns(UserWarning, match="steps_per_execution > 1"):
        model.fit(X, Y, batch_size=14, verbose=0, callbacks=[watching])
    assert watching.history["update_curvature"].isna().all()


# --------------------------------------------------------------------------- sparse and ragged


def test_sparse_inputs_are_measured_as_dense_ones():
    dense = np.where(GENERATOR.random((24, 6)) < 0.4, GENERATOR.random((24, 6)), 0.0).astype("f")
    y = GENERATOR.standard_normal((24, 2)).astype("f")
    sparse = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(dense), y)).batch(8)

    def model(**options):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,), **options)
        model = keras.Model(inputs, layers.Dense(2)(layers.Dense(3, "tanh")(inputs)))
        model.compile("sgd", "mse")
        return model

    rows = []
    for trained, data in ((sparse, None), (sparse, sparse), ((dense, y), None)):
        watching = monitor(data, update_freq=3)
        if trained is sparse:
            model(sparse=True).fit(sparse, verbose=0, callbacks=[watching])
        else:
            model().fit(dense, y, batch_size=8, shuffle=False, verbose=0, callbacks=[watching])
        rows.append(watching.history["sharpness"][0])
    np.testing.assert_allclose(rows, rows[-1], rtol=1e-4)


def test_ragged_inputs_are_measured_as_padded_ones():
    class Bag(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding, self.dense = layers.Embedding(10, 3), layers.Dense(1)

        def call(self, words):
            vectors = tf.ragged.map_flat_values(self.embedding, words)
            return self.dense(tf.reduce_sum(vectors, axis=1))

    words = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1]] * 4)
    y = GENERATOR.standard_normal((16, 1)).astype("f")
    keras.utils.set_random_seed(0)
    model = Bag()
    model.compile("sgd", "mse")
    watching = monitor(update_freq=4)
    data = tf.data.Dataset.from_tensor_slices((words, y)).batch(4)
    model.fit(data, verbose=0, callbacks=[watching])
    design = np.zeros((16, 10))
    for row, indices in enumerate(words.to_list()):
        np.add.at(design[row], indices, 1.0)
    table = model.embedding.embeddings.numpy()
    kernel = model.dense.kernel.numpy()

    def loss(values):
        embeddings, weights, bias = tf.split(values, [30, 3, 1])
        hidden = tf.matmul(design, tf.reshape(embeddings, (10, 3)))
        return tf.reduce_mean((tf.matmul(hidden, weights[:, None]) + bias - y) ** 2)

    point = tf.constant(flat([table, kernel, model.dense.bias]), tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point)
            value = loss(point)
        gradient = inner.gradient(value, point)
    hessian = outer.jacobian(gradient, point).numpy()
    expected = np.linalg.eigvalsh(hessian)[-1]
    assert watching.history["sharpness"][0] == pytest.approx(expected, rel=1e-4)


# -------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies_keep_arguments_and_rows_and_measure_for_themselves(copied, used):
    watching = monitor(num_eigenvalues=2, solver="lanczos")
    if used:
        fit_one(network(), X, Y, watching)
    twin = copied(watching)
    assert twin.history.equals(watching.history)
    model, _, _ = build("dense", "adam")
    model.fit(X, Y, batch_size=42, verbose=0, callbacks=[twin, watching])
    assert len(twin.history) == len(watching.history) == 1 + used
    assert twin.log_dir != watching.log_dir
