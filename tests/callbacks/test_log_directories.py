"""Directories of logs: refused, in use, and those of copies."""

import copy
import errno
import functools
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import textwrap
import warnings

import keras
import pytest

from keras_aeos.callbacks import claim
from keras_aeos.callbacks.logs import Logs
from keras_aeos.callbacks.running import running_while
from tests.callbacks.log_cases import (
    COLUMNS,
    NUM_FILES,
    all_steps,
    train,
    write,
)

LOCK = ".keras_aeos.lock"

IMPOSSIBLE = {
    "a file": "file",
    "below a file": "file/logs",
    "a URL": "gs://bucket/logs",
    "a URL as a path": pathlib.Path("gs://bucket/logs"),
    "too long": "n" * 300,
    "not a directory of files": "/proc/nothing",
    "no such user": "~nobody-of-this-name/logs",
    "a null character": "a\0b",
}


@pytest.mark.parametrize("log_dir", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_directory_is_refused_before_training(tmp_path, log_dir):
    pathlib.Path("file").write_text("kept")
    with pytest.raises(ValueError, match=r"`log_dir` must be .* Received: log_dir="):
        Logs(log_dir, COLUMNS).begin()
    assert os.listdir(tmp_path) == ["file"]


def test_directory_without_permission_is_refused(tmp_path, monkeypatch):
    def refuses(path, *arguments):  # root may write anywhere
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(ValueError, match="Permission denied"):
        Logs(tmp_path / "new" / "logs", COLUMNS).begin()
    assert os.listdir(tmp_path) == []


def test_default_directory_that_is_impossible_is_refused(tmp_path):
    pathlib.Path("logs").write_text("")
    with pytest.raises(ValueError, match="Received: log_dir=None"):
        Logs(None, COLUMNS).begin()


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    logs = Logs("~/logs", COLUMNS)
    train(logs, 1)
    assert logs.directory == tmp_path / "home" / "logs"
    assert os.listdir(tmp_path) == ["home"]


@pytest.mark.parametrize("log_dir", [None, "a/b/c"])
def test_training_without_a_row_leaves_no_file(tmp_path, log_dir):
    logs = Logs(log_dir, COLUMNS)
    train(logs)
    assert os.listdir(tmp_path) == []
    train(logs, 1)
    assert all_steps(logs.directory) == [[1]] * NUM_FILES


def test_working_directory_may_change(tmp_path, monkeypatch):
    logs = Logs("logs", COLUMNS)
    logs.begin()
    write(logs, 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(logs, 2)
    logs.close()
    assert all_steps(tmp_path / "logs") == [[1, 2]] * NUM_FILES
    assert os.listdir(tmp_path / "elsewhere") == []


def test_directory_in_use_is_left_to_its_holder(tmp_path):
    directory = tmp_path / "logs"
    first, second, third = (Logs(directory, COLUMNS) for _ in range(3))
    first.begin()
    (tmp_path / "logs-2").mkdir()  # of someone else, even if it is empty
    with pytest.warns(UserWarning, match="logs is in use .* are in .*logs-3") as caught:
        second.begin()
    assert len(caught) == 1
    for step in (1, 2):
        write(first, step)
        write(second, step + 10)
    first.close()
    second.close()
    train(second, 13)  # stays where it was
    train(third, 5)
    assert all_steps(directory) == [[1, 2, 5]] * NUM_FILES
    assert all_steps(tmp_path / "logs-3") == [[11, 12, 13]] * NUM_FILES
    assert os.listdir(tmp_path / "logs-2") == []
    assert not (directory / LOCK).exists()


def test_default_directories_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_aeos.callbacks.logs._now", lambda: "noon")
    made = [Logs(None, COLUMNS) for _ in range(3)]
    for number, logs in enumerate(made):
        train(logs, number)
    parent = tmp_path / "logs" / "aeos"
    assert [logs.directory for logs in made] == [
        parent / name for name in ("noon", "noon-2", "noon-3")
    ]


def test_lock_of_another_process_is_respected_and_ends_with_it(tmp_path):
    script = f"""
        import fcntl, os, sys
        file = os.open({str(tmp_path / LOCK)!r}, os.O_RDWR | os.O_CREAT)
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(claim.Taken):
            claim.Claim(tmp_path)
        process.kill()
        process.wait()
    assert claim.Claim(tmp_path).holds()


def test_file_system_without_locks(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    train(Logs(tmp_path, COLUMNS), 1)
    assert all_steps(tmp_path) == [[1]] * NUM_FILES


HERE = socket.gethostname()
NAMED = {
    "this process": (claim.this_process(), None),
    "one that runs": (f"process {os.getppid()} on {HERE}", "held"),
    "one that has ended": (f"process 999999999 on {HERE}", "left"),
    "one of another host": ("process 1 on another.host", "left"),
    "nothing known": ("\0\n", "left"),
}


@pytest.mark.parametrize(("text", "expected"), NAMED.values(), ids=NAMED)
def test_without_locks_the_named_process_counts(tmp_path, monkeypatch, text, expected):
    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    (tmp_path / LOCK).write_text(text)
    if expected == "held":
        with pytest.raises(claim.Taken, match=text):
            claim.Claim(tmp_path)
    else:
        held = claim.Claim(tmp_path)
        assert held.left_by == text
        assert (tmp_path / LOCK).read_text() == claim.this_process()


def test_lock_names_its_process(tmp_path):
    held = claim.Claim(tmp_path)
    assert held.left_by == ""
    with pytest.raises(claim.Taken, match=f"process {os.getpid()} on {HERE}"):
        claim.Claim(tmp_path)
    assert claim.Claim(tmp_path, lock=".other").holds()


def test_logs_of_a_training_that_was_interrupted_are_released_with_them(tmp_path):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    write(logs, 1)
    del logs
    train(Logs(tmp_path, COLUMNS), 2)
    assert all_steps(tmp_path) == [[1, 2]] * NUM_FILES


class Writer(keras.callbacks.Callback):
    """Writes a row when training begins."""

    def __init__(self, directory, step, then=None):
        super().__init__()
        self.logs, self.step, self.then = Logs(directory, COLUMNS), step, then

    def on_train_begin(self, logs=None):
        self.logs.begin(in_use=running_while(self))
        write(self.logs, self.step)
        if self.then is not None:
            self.then()


def begin_training(writer):
    callbacks = keras.callbacks.CallbackList([writer])
    callbacks.on_train_begin()


def interrupt():
    raise KeyboardInterrupt


def test_directory_of_an_interrupted_training_is_free_for_the_next_one(tmp_path):
    """Although its traceback, as that of a notebook, still holds it."""
    first, second = Writer(tmp_path, 1, interrupt), Writer(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        begin_training(first)
    begin_training(second)
    assert all_steps(tmp_path) == [[1, 2]] * NUM_FILES
    second.logs.close()
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize("by", ["a CallbackList", "a loop"])
def test_directory_of_a_training_that_runs_is_not_free(tmp_path, by):
    directory = tmp_path / "logs"
    second = Writer(directory, 2)
    if by == "a loop":  # whose end can't be seen
        first = Writer(directory, 1)
        first.on_train_begin()
        run = functools.partial(begin_training, second)
    else:
        first = Writer(directory, 1, lambda: begin_training(second))
        run = functools.partial(begin_training, first)
    with pytest.warns(UserWarning, match="in use by another monitor"):
        run()
    assert all_steps(directory) == [[1]] * NUM_FILES
    assert all_steps(tmp_path / "logs-2") == [[2]] * NUM_FILES


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda logs: pickle.loads(pickle.dumps(logs))],  # noqa: S301
)
@pytest.mark.parametrize("log_dir", [None, "logs"])
def test_copy_writes_beside_the_original(tmp_path, copied, log_dir):
    logs = Logs(log_dir, COLUMNS)
    unused = copied(logs)
    logs.begin()
    write(logs, 1)
    used = copied(logs)
    for other, steps in ((unused, (1, 2)), (used, (2, 3))):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in use by another monitor")
            train(other, *steps)
    write(logs, 2)
    logs.close()
    assert [all_steps(each.directory)[0] for each in (logs, unused, used)] == [
        [1, 2], [1, 2], [2, 3]
    ]  # fmt: skip
