"""Runs that are interrupted: what is on the disk, what is said, and how they go on."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import types

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos import AEoSMonitor
from tests.trainers.endurance import results
from tests.trainers.prepared import write_cifar
from trainers import checkpoint, run_directory, schema, training
from trainers.__main__ import main
from trainers.callbacks import OnceBelow, ProgressBar, StopCriteria
from trainers.errors import RunError, UserError
from trainers.signals import Interrupted, Signals, signals


class Killed(BaseException):
    """As a kill, it is caught by nobody."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_cifar(tmp_path_factory.mktemp("tfds"))


def config(directory, **changes):
    """A run of a few seconds in mini batches, with all that remembers something."""
    return schema.Config(
        **{
            "model": schema.FullyConnected(hidden_layers=1, width=4),
            "data": schema.Data(
                data_dir=directory, num_examples=40, batch_size=20, micro_batch_size=10
            ),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=3e-3),
            "steps": 9,
            "monitor": schema.Monitor(update_freq=2, loss_threshold=2.2),
            "evaluation": schema.Evaluation(freq=3, loss_threshold=2.1),
            "checkpoint": schema.Checkpoint(freq=2),
            "freeze_step": 4,
            "output_dir": "",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def whole(directory, tmp_path_factory):
    """The results of the run that is not interrupted."""
    place = tmp_path_factory.mktemp("whole")
    training.train(config(directory), place, {})
    assert not (place / "checkpoints").exists()
    return results(place)


def before_update_is_saved(monkeypatch, update, action):
    """Do something after an update, before its checkpoint."""
    original = ProgressBar.on_epoch_end

    def patched(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch + 1 == update:
            action()

    monkeypatch.setattr(ProgressBar, "on_epoch_end", patched)


def kill():
    raise Killed


def send(number):
    """Send a signal to this process, and wait: another thread may receive it, and late."""
    os.kill(os.getpid(), number)
    while signals.pending is None:
        time.sleep(1e-3)


def test_killed_run_goes_on_as_if_it_had_not_been(directory, tmp_path, capsys, whole):
    run = tmp_path / "run"
    for update, damaged in ((4, None), (5, None), (7, "6.npz"), (8, None)):
        with pytest.MonkeyPatch.context() as patch:
            before_update_is_saved(patch, update, kill)
            with pytest.raises(Killed):
                training.train(config(directory), run, {})
        if damaged is not None:
            path = run / "checkpoints" / damaged
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    one = tf.distribute.get_strategy()
    assert training._saved(config(directory, resume="never"), run, one) is None
    assert training._saved(config(directory, seed=1), run, one) is None
    record = training.train(config(directory), run, {}).record
    assert record["resumed_at"] == [2, 4, 4, 6]
    assert results(run) == whole
    assert "6.npz can't be read" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    assert not (run / "checkpoints").exists()


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_named_and_the_run_goes_on_later(directory, tmp_path, capsys, whole):
    """No checkpoint can be written from update 6 on, and no weights."""

    def refuses(*_):
        raise FULL

    def writes_half(_, path):
        path.write_bytes(b"half")
        raise FULL

    with pytest.MonkeyPatch.context() as patch:
        before_update_is_saved(
            patch, 5, lambda: patch.setattr(checkpoint.array_files, "write", refuses)
        )
        patch.setattr(keras.Model, "save_weights", writes_half)
        with pytest.raises(RunError, match=r"No space left on device.*start the same command"):
            training.train(config(directory), tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert "no checkpoint of update 6" in capsys.readouterr().err
    assert not list(tmp_path.glob("*part*"))
    assert training.train(config(directory), tmp_path, {}).record["resumed_at"] == [4]
    assert results(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Logs were removed")
def test_directory_that_is_removed_holds_a_run_again(directory, tmp_path, capsys, whole):
    run = tmp_path / "run"

    def removes_then_stops():
        shutil.rmtree(run)

    with pytest.MonkeyPatch.context() as patch:
        before_update_is_saved(patch, 3, removes_then_stops)
        before_update_is_saved(patch, 5, functools.partial(send, signal.SIGTERM))
        with signals.handled(), pytest.raises(Interrupted, match="update 5"):
            training.train(config(directory), run, {})
    assert "were removed while it ran" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert training.train(config(directory), run, {}).record["resumed_at"] == [5]
    found = results(run)
    # Earlier events are in no checkpoint.
    other = {key for key in whole if found[key] != whole[key]}
    assert other == {f"tensorboard/{name}" for name in ("measured", "threshold", "test")}


def test_worker_that_dies_is_named_in_one_line(directory, tmp_path, monkeypatch):
    def lost(*_):
        raise tf.errors.UnavailableError(None, None, "Connection reset\nby peer")

    monkeypatch.setattr(training.loop, "fit", lost)
    with pytest.raises(RunError, match=r"another process .* Connection reset by peer"):
        training.train(config(directory), tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not permitted")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S607


@pytest.mark.slow
def test_small_disk_holds_whole_files(directory, small_disk, capsys, whole):
    """A checkpoint of 25,000 parameters and the last vectors of two operators don't fit."""
    model = schema.FullyConnected(hidden_layers=1, width=8)
    run = small_disk / "run"
    training.train(config(directory, model=model, steps=3, freeze_step=None), run, {})
    assert "no checkpoint of update 2 could be written" in capsys.readouterr().err
    assert 2 in pd.read_csv(run / "metrics.csv")["step"].tolist()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(bytes(2**20))
    with pytest.raises(UserError, match="No space left on device"):
        training.train(config(directory), small_disk / "other", {})
    filler.unlink()
    training.train(config(directory), small_disk / "other", {})
    assert results(small_disk / "other") == whole


# ----------------------------------------------------------------------------------- checkpoints


def network():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0)
    return model


def taken(model):
    """A checkpoint of a model."""
    monitor = AEoSMonitor()
    callbacks: list[checkpoint.Stateful] = [StopCriteria(), OnceBelow(1.0, 1, print)]
    states = [callback.state() for callback in callbacks]
    variables = (checkpoint.values_of(v) for v in (model.variables, model.optimizer.variables))
    found = checkpoint.state.of(monitor)
    return checkpoint.Checkpoint(1, 1.5, states, found, *variables), monitor, callbacks


def test_every_variable_is_in_a_checkpoint(tmp_path):
    """Those of random generators too, which `save_weights` leaves out."""
    model = network()
    saved, monitor, callbacks = taken(model)
    saved.write(tmp_path / "1.npz")
    before = checkpoint.values_of([*model.variables, *model.optimizer.variables])
    model.fit(np.ones((4, 3)), np.zeros((4, 4)), verbose=0)
    after = checkpoint.values_of([*model.variables, *model.optimizer.variables])
    changed = sum(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert changed > 8
    assert any("seed" in variable.path for variable in model.variables)
    checkpoint.read(tmp_path / "1.npz").restore(model, monitor, callbacks)
    now = checkpoint.values_of([*model.variables, *model.optimizer.variables])
    for one, two in zip(before, now, strict=True):
        np.testing.assert_array_equal(one, two)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="other shapes"):
        checkpoint.read(tmp_path / "1.npz").restore(model, monitor, callbacks)


def test_two_checkpoints_are_kept_whichever_write_fails(tmp_path):
    saved = taken(network())[0]
    for number in range(1, 400):
        place = tmp_path / str(number)
        place.mkdir()
        checkpoints = checkpoint.Checkpoints(place, checkpoint.read)
        for update in (1, 2):
            checkpoints.keep(dataclasses.replace(saved, update=update))
        with pytest.MonkeyPatch.context() as patch:
            calls = failing(patch, number)
            try:
                checkpoints.keep(dataclasses.replace(saved, update=3))
            except OSError:
                newest = checkpoints.newest()
                assert newest is not None
                assert newest.update in (2, 3)
            else:
                assert calls[0] < number
                break
        assert set(os.listdir(place / "checkpoints")) <= {"1.npz", "2.npz", "3.npz"}
    assert number > 50


def test_checkpoint_is_due_after_updates_or_minutes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(checkpoint, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock = checkpoint.Clock(schema.Checkpoint(freq=3, minutes=10.0), seconds=7.0)
    assert [clock.is_due(update) for update in range(1, 7)] == [False, False, True] * 2
    now[0] += 600.0
    assert clock.is_due(1)
    assert clock.seconds == 607.0
    clock.restart()
    assert not clock.is_due(1)
    never = checkpoint.Clock(schema.Checkpoint(freq=None, minutes=None))
    now[0] += 1e6
    assert not never.is_due(3)


def failing(monkeypatch, number):
    """Let one of the calls that change the disk fail."""
    calls = [0]
    for name in ("write", "fsync", "replace"):

        def call(original, *arguments):
            calls[0] += 1
            if calls[0] == number:
                raise FULL
            return original(*arguments)

        monkeypatch.setattr(os, name, functools.partial(call, getattr(os, name)))
    return calls


# --------------------------------------------------------------------------------------- signals


@pytest.fixture
def arguments(directory, tmp_path):
    """The command line of a run of three updates, the first two with a checkpoint to write."""
    settings = ["data.num_examples=40", "data.micro_batch_size=20", "model.width=4", "steps=3"]
    settings += [f"data.data_dir={directory}", f"output_dir={tmp_path / 'run'}"]
    return ["-cn", "fully_connected", *settings, "monitor.update_freq=1"]


def test_signal_saves_the_run_and_ends_the_sweep(arguments, tmp_path, capsys):
    sweep = [*arguments, "-m", "seed=0,1"]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for update, number, status in ((1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)):
        with pytest.MonkeyPatch.context() as patch:
            before_update_is_saved(patch, update, functools.partial(send, number))
            with pytest.raises(SystemExit) as end:
                main(sweep)
        assert end.value.code == status
        last = capsys.readouterr().err.splitlines()[-1]
        for part in (number.name, f"update {update} of 3", f"{update}.npz", "same command"):
            assert part in last
        [run] = [path.parent for path in (tmp_path / "run").glob("*/run.json")]
        record = json.loads((run / "run.json").read_text())
        assert (record["status"], number.name in record["stop_reason"]) == ("interrupted", True)
        assert list(pd.read_csv(run / "metrics.csv")["step"]) == list(range(1, update + 1))
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    main(sweep)
    assert "goes on after update 2" in capsys.readouterr().out
    assert list(pd.read_csv(run / "metrics.csv")["step"]) == [1, 2, 3]
    records = [json.loads(p.read_text()) for p in (tmp_path / "run").glob("*/run.json")]
    assert [r["status"] for r in records] == ["completed"] * 2


def test_second_signal_ends_the_process_at_once(monkeypatch):
    def ends(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", ends)
    received = Signals()
    with received.handled(), received.held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        assert received.pending == signal.SIGTERM
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGINT)
    assert end.value.code == 130


def test_signal_before_training_ends_the_process_at_once():
    received = Signals()
    with received.handled(), pytest.raises(Interrupted, match="by SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


# -------------------------------------------------------------------------------------- the lock


def test_directory_of_a_run_in_progress_is_refused(tmp_path):
    me = f"process {os.getpid()} on {socket.gethostname()}"
    first, second = (run_directory.claimed(tmp_path / "run") for _ in range(2))
    with first, pytest.raises(UserError, match=f"of {me}; this is {me}"), second:
        pass
    assert not (tmp_path / "run").exists()


def test_directory_of_a_dead_process_is_taken_over(tmp_path, capsys):
    (tmp_path / run_directory.LOCK).write_text("process 17 on elsewhere")
    with run_directory.claimed(tmp_path):
        run_directory.check_free(tmp_path)
    assert "took" in (out := capsys.readouterr().out)
    assert "process 17 on elsewhere" in out
    assert os.listdir(tmp_path) == []
