"""A training that is interrupted and resumed has the rows of one that never was."""

import contextlib
import csv
import os
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos import AEoSMonitor, Eigensolver, array_files
from keras_aeos.callbacks import cut_back, resuming, state
from tests.callbacks.log_cases import events

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((42, 4)).astype("f")
Y = GENERATOR.standard_normal((42, 3)).astype("f")
LABELS = np.arange(42) % 3
NUM_EPOCHS = 4
TIMES = ["seconds", "overhead"]
# Three updates an epoch.
FED: dict[str, Any] = {"x": X, "y": Y, "batch_size": 14, "shuffle": False, "verbose": 0}


class Killed(BaseException):
    """As a kill, it is caught by nobody."""


class Kill(keras.callbacks.Callback):
    """Ends the process, as it were, after a number of updates; at an epoch's end if `at_end`."""

    def __init__(self, update, at_end=False):
        super().__init__()
        self.update, self.at_end = update, at_end

    def on_train_batch_end(self, batch, logs=None):
        self._at(not self.at_end)

    def on_epoch_end(self, epoch, logs=None):
        self._at(self.at_end)

    def _at(self, here):
        if here and int(self.model.optimizer.iterations) == self.update:
            raise Killed


def network(loss="mse"):
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(5, "tanh", name="hidden"), layers.Dense(3, name="outputs")]
    model = keras.Sequential([keras.Input((4,)), *stack])
    model.compile(keras.optimizers.Adam(1e-2), loss)
    return model


def monitor(log_dir, data=None, **options):
    defaults: dict[str, Any] = {"update_freq": 2, "solver": Eigensolver(rtol=1e-3)}
    return AEoSMonitor(data, log_dir=log_dir, **defaults | options)


def same_rows(one, two):
    pd.testing.assert_frame_equal(
        one.history.drop(columns=TIMES), two.history.drop(columns=TIMES), check_exact=True
    )
    for each in (one, two):  # and the files hold them
        with (each.log_dir / "metrics.csv").open(newline="") as file:
            lines = [(int(row["step"]), float(row["edge_ratio"])) for row in csv.DictReader(file)]
        assert lines == list(zip(*(one.history[n] for n in ("step", "edge_ratio")), strict=True))
        scalars = [(step, float(np.float32(ratio))) for step, ratio in lines]
        assert events(each.log_dir, "measured")["edge_ratio"] == scalars
    pd.testing.assert_frame_equal(one.spectral_densities, two.spectral_densities, check_exact=True)
    pd.testing.assert_frame_equal(one.layers, two.layers, check_exact=True)
    for each in (one, two):
        if len(each.layers):
            pd.testing.assert_frame_equal(pd.read_csv(each.log_dir / "layers.csv"), each.layers)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    watching = monitor(tmp_path_factory.mktemp("whole"))
    network().fit(**FED, epochs=NUM_EPOCHS, callbacks=[watching])
    assert watching.history["step"].tolist() == [2, 4, 6, 8, 10, 12]
    return watching


# Update at which the process ends, whether after the callbacks of the epoch's end.
KILLS = [(5, False), (6, True)]


@pytest.mark.parametrize("first", [True, False], ids=["backup first", "backup last"])
def test_rows_go_on_after_backup_and_restore(tmp_path, uninterrupted, first):
    log_dir, backup = tmp_path / "logs", str(tmp_path / "backup")
    for update, at_end in [*KILLS, (None, False)]:
        watching, saving = monitor(log_dir), keras.callbacks.BackupAndRestore(backup)
        callbacks = [saving, watching] if first else [watching, saving]
        kill = Kill(update, at_end)
        # Between the two at an epoch's end: only the first of them is called.
        callbacks.insert(1 if at_end else 2, kill)
        if update is None:
            network().fit(**FED, epochs=NUM_EPOCHS, callbacks=callbacks)
        else:
            with pytest.raises(Killed):
                network().fit(**FED, epochs=NUM_EPOCHS, callbacks=callbacks)
    same_rows(watching, uninterrupted)


def checkpointing(kind, directory):
    """A callback of a kind, and a function that gives back the model that it has saved."""
    if kind == "orbax":
        pytest.importorskip("orbax.checkpoint")
        saving = keras.callbacks.OrbaxCheckpoint(str(directory), save_on_background=False)
        return saving, lambda: loaded(directory)
    path = directory / ("model.keras" if kind == "model" else "model.weights.h5")
    saving = keras.callbacks.ModelCheckpoint(path, save_weights_only=kind == "weights")

    return saving, lambda: keras.models.load_model(path) if kind == "model" else loaded(path)


def loaded(path):
    model = network()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return model


@pytest.mark.parametrize("first", [True, False], ids=["checkpoint first", "checkpoint last"])
@pytest.mark.parametrize(
    "kind", [pytest.param("model", marks=pytest.mark.slow), "weights", "orbax"]
)
def test_rows_go_on_after_a_checkpoint_of_the_model(tmp_path, uninterrupted, kind, first):
    log_dir = tmp_path / "logs"
    for begin, kill in ((0, [Kill(8)]), (2, [])):
        # Orbax finds variables by the names of the layers, and leaves out the others.
        keras.utils.clear_session()
        saving, load = checkpointing(kind, tmp_path / "checkpoints")
        watching = monitor(log_dir)
        callbacks = [saving, watching] if first else [watching, saving]
        model = load() if begin else network()
        with pytest.raises(Killed) if kill else contextlib.nullcontext():
            model.fit(**FED, epochs=NUM_EPOCHS, initial_epoch=begin, callbacks=[*callbacks, *kill])
    same_rows(watching, uninterrupted)


def test_no_state_is_kept_without_checkpoints(uninterrupted):
    assert not (uninterrupted.log_dir / "state").exists()


# The monitor's arguments, and the updates after which everything is saved.
SAVED: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "examples half gathered, given steps": (
        {"update_freq": [4, 5, 7], "probe_size": 40},
        (2, 6),
    ),
    "given examples, power iteration": (
        {
            "data": (X, Y),
            "num_eigenvalues": 2,
            "solver": Eigensolver("power", 1e-2),
            "quantities": [
                *("sharpness", "spectral_density", "update_curvature"),
                *("edge_layer", "layer_sharpness", "critical_learning_rate"),
            ],
        },
        (3,),
    ),
}


@pytest.mark.parametrize(("options", "stops"), SAVED.values(), ids=SAVED)
def test_rows_go_on_where_a_monitor_was_saved(tmp_path, monkeypatch, options, stops):
    """Of eight updates on four batches in turn."""
    batches = tf.data.Dataset.from_tensor_slices((X[:40], Y[:40])).batch(10).repeat()

    def train(watching, model, begin, end):
        model.fit(batches.skip(begin).take(end - begin), verbose=0, callbacks=[watching])

    whole, model = monitor(tmp_path / "whole", **options), network()
    train(whole, model, 0, 8)
    weights = tmp_path / "model.weights.h5"
    for begin, end in zip((0, *stops), (*stops, 8), strict=True):
        watching, model = monitor(tmp_path / "parts", **options), network()
        if begin:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(weights)
            watching.load(tmp_path / "monitor.npz")
        with monkeypatch.context() as patch:  # a part that is too short for a row
            patch.setattr(AEoSMonitor, "_say_what_is_missing", lambda _: None)
            train(watching, model, begin, end)
        watching.save(tmp_path / "monitor.npz")
        model.save_weights(weights)
    same_rows(watching, whole)


def test_rows_after_the_weights_are_measured_again(tmp_path, uninterrupted):
    """The monitor was saved after eight updates, the model after six."""
    first, model = monitor(tmp_path / "logs"), network()
    model.fit(**FED, epochs=2, callbacks=[first])
    model.save_weights(tmp_path / "model.weights.h5")
    model.fit(**FED, epochs=1, callbacks=[first])
    first.save(tmp_path / "monitor.npz")
    watching, model = monitor(tmp_path / "logs"), network()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "model.weights.h5")
    watching.load(tmp_path / "monitor.npz")
    assert watching.history["step"].tolist() == [2, 4, 6, 8]
    model.fit(**FED, epochs=NUM_EPOCHS, initial_epoch=2, callbacks=[watching])
    steps = pd.read_csv(tmp_path / "logs" / "metrics.csv")["step"]
    assert steps.tolist() == watching.history["step"].tolist() == [2, 4, 6, 8, 10, 12]
    # From cold solves, so not bit for bit, but to the tolerance of the solver.
    np.testing.assert_allclose(
        watching.history["edge_ratio"], uninterrupted.history["edge_ratio"], rtol=2e-3
    )


def test_saved_state_does_not_replace_the_logs_of_another_training(tmp_path, uninterrupted):
    other = monitor(tmp_path / "logs")
    network("mae").fit(**FED, epochs=2, callbacks=[other])
    uninterrupted.save(tmp_path / "monitor.npz")
    watching, model = monitor(tmp_path / "logs"), network()
    watching.load(tmp_path / "monitor.npz")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(12)
    model.fit(**FED, epochs=1, callbacks=[watching])
    kept = pd.read_csv(tmp_path / "logs" / "metrics.1.csv")
    assert kept["step"].tolist() == other.history["step"].tolist()
    assert watching.history["step"].tolist() == [2, 4, 6, 8, 10, 12, 14]


def test_monitor_that_has_trained_goes_on_with_what_it_loads(tmp_path, uninterrupted):
    uninterrupted.save(tmp_path / "monitor.npz")
    watching, model = monitor(tmp_path / "logs"), network()
    network().fit(**FED, epochs=1, callbacks=[watching])
    watching.load(tmp_path / "monitor.npz")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(12)
    model.fit(**FED, epochs=1, callbacks=[watching])
    assert watching.history["step"].tolist() == [2, 4, 6, 8, 10, 12, 14]
    kept = pd.read_csv(tmp_path / "logs" / "metrics.csv")
    assert kept["step"].tolist() == watching.history["step"].tolist()


def test_full_disk_is_no_end_of_training(tmp_path, monkeypatch, uninterrupted):
    def refuses(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files, "whole", refuses)
    watching = monitor(tmp_path / "logs")
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "model.weights.h5", save_weights_only=True)
    with pytest.warns(UserWarning, match="could not keep its state: .*No space left"):
        network().fit(**FED, epochs=NUM_EPOCHS, callbacks=[watching, saving])
    same_rows(watching, uninterrupted)


BAD = {
    "text": (lambda path: path.write_text("hello"), "not a zip file"),
    "no state": (lambda path: np.savez(path, np.ones(3)), "Expecting value"),
    "another version": (lambda path: array_files.write(path, {}, '{"version": 9}'), "version"),
    "no rows": (lambda path: array_files.write(path, {}, '{"version": 2}'), "no rows"),
    "no tables": (
        lambda path: array_files.write(path, {}, '{"version": 2, "columns": [], "rows": []}'),
        "tables",
    ),
    "nested": (lambda path: array_files.write(path, {}, "[" * 10**6), "nested"),
    "other columns": (
        lambda path: monitor(None, quantities=["trace"]).save(path),
        "other `quantities`",
    ),
}


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD)
def test_bad_file_is_refused(tmp_path, write, message):
    write(tmp_path / "monitor.npz")
    with pytest.raises(ValueError, match=rf"AEoSMonitor.save.*{message}.*Received: path="):
        monitor(None).load(tmp_path / "monitor.npz")


def test_state_with_damaged_content_is_said_and_training_goes_on(tmp_path, uninterrupted):
    found = state.of(uninterrupted)
    found.facts["num_rows_before"] = "many"
    found.write(tmp_path / "monitor.npz")
    watching = monitor(tmp_path / "logs")
    watching.load(tmp_path / "monitor.npz")
    with pytest.warns(UserWarning, match="state of the monitor is damaged"):
        network().fit(**FED, epochs=1, callbacks=[watching])


def test_solves_begin_cold_where_the_state_of_the_solver_is_damaged(tmp_path, uninterrupted):
    found = state.of(uninterrupted)
    del found.facts["num_solves"]
    found.write(tmp_path / "monitor.npz")
    watching = monitor(tmp_path / "logs")
    watching.load(tmp_path / "monitor.npz")
    model = network()
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(12)
    model.fit(**FED, epochs=1, callbacks=[watching])
    assert watching.history["step"].tolist()[-1] == 14
    assert watching.history["converged"].all()


def test_a_name_that_looks_like_a_number_stays_a_name(tmp_path):
    (tmp_path / "layers.csv").write_text("step,layer,share\n2,007,0.5\n2,True,nan\n")
    first, second = cut_back.read_rows(tmp_path / "layers.csv", ["step", "layer", "share"])
    assert (first["step"], first["layer"], second["layer"]) == (2, "007", "True")
    assert np.isnan(second["share"])


@pytest.mark.parametrize(
    ("content", "steps"), [("step,x\n2,0.5\n4,0.1", [2]), ("step,x\n2,0.5\n", [2]), ("", [])]
)
def test_line_without_an_end_is_no_row(tmp_path, content, steps):
    (tmp_path / "metrics.csv").write_text(content)
    rows = cut_back.read_rows(tmp_path / "metrics.csv", ["step", "x"])
    assert [row["step"] for row in rows] == steps


NESTS = {
    "weights": (tf.ones([2, 3]), tf.range(2), None),
    "dictionary": ({"b": tf.ones([1]), "a": [tf.constant(True)]}, None, None),
    "sparse": (tf.sparse.from_dense([[0.0, 1.0]]), None, None),
    "ragged": (tf.ragged.constant([[[1], [2, 3]], []]), None, None),
    "bfloat16": (tf.cast([1.5, 2.0], "bfloat16"), None, None),
}


@pytest.mark.parametrize("batch", NESTS.values(), ids=NESTS)
def test_batches_are_kept_in_their_structure(batch):
    arrays: dict[str, np.ndarray] = {}
    again = state._unpacked(state._packed(batch, arrays), arrays)
    tf.nest.assert_same_structure(again, batch, expand_composites=True)
    for one, two in zip(
        tf.nest.flatten(again, expand_composites=True),
        tf.nest.flatten(batch, expand_composites=True),
        strict=True,
    ):
        assert (one is None) == (two is None)
        if one is not None:
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_strings_are_not_kept():
    assert state._examples([(tf.constant(["a"]), None, None)], {}) is None


def test_states_of_the_last_epochs_are_kept(tmp_path, uninterrupted):
    """Two rows an epoch: the last row's, and those of the last two ends of epochs."""
    files = resuming.StateFiles(tmp_path)
    found = state.of(uninterrupted)
    kept = []
    for step in range(1, 9):
        files.keep(state.State({**found.facts, "step": step}, {}))
        if step % 2 == 0:
            files.end_epoch()
        kept.append(sorted(int(name[:-4]) for name in os.listdir(tmp_path / "state")))
    assert kept == [[1], [2], [2, 3], [2, 4], [2, 4, 5], [2, 4, 6], [4, 6, 7], [4, 6, 8]]

    def newest(step):
        state_found = resuming.StateFiles(tmp_path).newest(step)
        return None if state_found is None else state_found.step

    assert [newest(step) for step in (3, 5, 7, 9)] == [None, 4, 6, 8]
    (tmp_path / "state" / "8.npz").write_bytes(b"half")
    assert newest(9) == 6


def test_events_are_cut_at_every_byte(tmp_path, uninterrupted):
    [path] = (uninterrupted.log_dir / "tensorboard" / "measured").iterdir()
    content = path.read_bytes()
    directory = tmp_path / "tensorboard" / "run"
    directory.mkdir(parents=True)
    for size in (*range(0, len(content), 97), len(content)):
        (directory / path.name).write_bytes(content[:size])
        cut_back.cut_events(directory, 8)
        steps = [step for step, _ in events(tmp_path, "run").get("edge_ratio", [])]
        assert steps == [2, 4, 6, 8][: len(steps)]
    assert steps == [2, 4, 6, 8]
