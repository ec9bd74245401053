"""Rows that can't be written at once, and files that are there already."""

import errno
import os
import pathlib
import subprocess
import sys
import textwrap
import warnings

import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos.callbacks import writers
from keras_aeos.callbacks.logs import Logs
from tests.callbacks.log_cases import (
    COLUMNS,
    HEADER,
    NUM_FILES,
    all_steps,
    events,
    row,
    steps_of,
    tables,
    train,
    write,
)


def failing_write(number, size, error):
    """`os.write` whose call of a number writes `size` bytes and then fails, as a full disk does."""
    original, calls, failed = os.write, [0], [False]

    def fails(file, data):
        calls[0] += 1
        if failed[0]:
            failed[0] = False
            raise error
        if calls[0] == number:
            if size is None:  # everything is written before the error
                original(file, data)
                raise error
            failed[0] = True
            return original(file, data[:size])
        return original(file, data)

    return fails


@pytest.mark.parametrize("size", [0, 7, None])
@pytest.mark.parametrize("number", range(1, 17))
def test_row_that_fails_is_written_later_once_and_whole(tmp_path, monkeypatch, number, size):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "write", failing_write(number, size, error))
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        write(logs, 1, 2, 3, 4)
    logs.close()
    assert len(caught) == 1
    assert all_steps(tmp_path) == [[1, 2, 3, 4]] * NUM_FILES


@pytest.mark.parametrize("size", [0, 7, None])
def test_interrupted_row_is_written_once(tmp_path, monkeypatch, size):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    write(logs, 1)
    monkeypatch.setattr(os, "write", failing_write(2, size, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write(logs, 2)
    write(logs, 3)
    logs.close()
    assert all_steps(tmp_path) == [[1, 2, 3]] * NUM_FILES


def test_row_whose_interruption_came_after_its_write_is_not_doubled(tmp_path):
    file = writers.csv_file(COLUMNS)
    file.add(row(1))
    entry = file._waiting[0]
    file.flush(tmp_path / "metrics.csv")
    file._waiting.insert(0, entry)  # as if the interrupt had come before the row was taken away
    file.add(row(2))
    file.flush(tmp_path / "metrics.csv")
    assert steps_of(tmp_path / "metrics.csv") == [1, 2]


@pytest.mark.parametrize("target", ["write", "open", "fstat"])
def test_any_exception_leaves_the_rows_waiting_and_says_so_once(tmp_path, monkeypatch, target):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, target, lambda *_, **__: 1 / 0)
        with pytest.warns(UserWarning, match="ZeroDivisionError") as caught:
            write(logs, 1, 2)
    assert len(caught) == 1
    logs.close()
    assert all_steps(tmp_path) == [[1, 2]] * NUM_FILES


def test_rows_that_could_not_be_written_wait_for_the_next_training(tmp_path, monkeypatch):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing_forever)
        with pytest.warns(UserWarning, match="OSError"):
            write(logs, 1)
        logs.close()  # fails again, and says no more
    train(logs, 2)
    assert all_steps(tmp_path) == [[1, 2]] * NUM_FILES


def test_rows_of_the_earlier_model_that_can_not_be_written_are_not_mixed_in(tmp_path, monkeypatch):
    logs = Logs(tmp_path, COLUMNS)
    train(logs, 1)
    logs.begin()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing_forever)
        with pytest.warns(UserWarning, match="OSError"):
            write(logs, 2)
        logs.close()
        with pytest.warns(UserWarning, match=r"earlier model .*rows: 1\)"):
            logs.begin(fresh=True)
    write(logs, 3)
    logs.close()
    assert all_steps(tmp_path) == [[3]] * NUM_FILES
    assert steps_of(tmp_path / "metrics.1.csv") == [1]


def failing_forever(file, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_of_the_system(tmp_path):
    """Under a limit of the size of files, which fails as a full disk: part of a row is written."""
    script = """
        import resource, sys
        from tests.callbacks.test_log_files import *
        logs = Logs("limited", COLUMNS)
        logs.begin()
        write(logs, 1)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.warns(UserWarning, match="File too large") as caught:
            write(logs, *range(2, 9))
            last = pathlib.Path("limited/metrics.csv").read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            logs.close()
        assert len(caught) == 1 and last.endswith(b"\\n") and 50 < len(last) <= 100
        assert all_steps(pathlib.Path("limited")) == [list(range(1, 9))] * NUM_FILES
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("written", [0, 1, 2])
def test_columns_are_added_to_rows_that_are_written(tmp_path, written):
    wide = [*COLUMNS[:1], "loss", *COLUMNS[1:]]
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    write(logs, *range(1, written + 1))
    logs.add_columns(wide)
    for step in (3, 4):
        logs.write(row(step) | {"loss": 0.5}, tables(step))
    logs.close()
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table) == wide
    assert all_steps(tmp_path) == [[*range(1, written + 1), 3, 4]] * NUM_FILES
    assert table["loss"].isna().sum() == written
    assert table["preconditioned_sharpness"].tolist() == [s + 0.5 for s in table["step"]]
    train(Logs(tmp_path, wide[:1] + wide[2:]), 5)  # of another monitor
    assert steps_of(tmp_path / "metrics.1.csv")[-2:] == [3, 4]


def test_columns_are_added_to_rows_that_are_gone_on_with(tmp_path):
    train(Logs(tmp_path, COLUMNS), 1, 2, 3)
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    logs.resume(*logs.rows(range(3)), 2)
    logs.add_columns([*COLUMNS, "loss"])
    logs.write(row(4) | {"loss": 0.5}, tables(4))
    logs.close()
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["step"].tolist() == [1, 2, 4]
    assert table["loss"].isna().tolist() == [True, True, False]
    assert not (tmp_path / "metrics.1.csv").exists()


def test_removed_directory_is_made_again(tmp_path):
    directory = tmp_path / "logs"
    logs = Logs(directory, COLUMNS)
    logs.begin()
    write(logs, 1)
    directory.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"were removed .*metrics\.csv") as caught:
        write(logs, 2)
    assert len(caught) == 1
    write(logs, 3)
    logs.close()
    assert all_steps(directory) == [[2, 3]] * NUM_FILES
    assert all_steps(tmp_path / "elsewhere") == [[1]] * NUM_FILES


def test_directory_replaced_by_a_file_holds_the_rows_back(tmp_path):
    directory = tmp_path / "logs"
    logs = Logs(directory, COLUMNS)
    logs.begin()
    directory.rename(tmp_path / "elsewhere")
    directory.write_text("")
    with pytest.warns(UserWarning, match="could not write") as caught:
        write(logs, 1, 2)
    assert len(caught) == 1
    directory.unlink()
    write(logs, 3)
    logs.close()
    assert all_steps(directory) == [[1, 2, 3]] * NUM_FILES


EARLIER = HEADER + "1,1.5,1.25\r\n2,2.5,2.25\r\n"
# What is there: the steps of metrics.csv after a row of step 5, what is set aside, and the warning.
FOUND = {
    "whole": (EARLIER, [1, 2, 5], False, None),
    "other line ends": (EARLIER.replace("\r\n", "\n"), [1, 2, 5], False, None),
    "half a line": (EARLIER[:-6], [1, 5], False, "2,2.5"),
    "no line end": (EARLIER[:-2], [1, 5], False, "2,2.5,2.25"),
    "half a row with a line end": (EARLIER + "3,3\r\n", [1, 2, 5], False, "3,3"),
    "zeros": (EARLIER + "\0" * 40, [1, 2, 5], False, "incomplete"),
    "header": (HEADER, [5], False, None),
    "half a header": (HEADER[:9], [5], False, "step,prec"),
    "empty": ("", [5], False, None),
    "a later step": (EARLIER + "5,5.5,5.25\r\n", [5], True, None),
    "no number": (EARLIER + "x,1,2\r\n", [5], True, None),
    "another header": ("step,loss\r\n1,2\r\n", [5], True, None),
    "a binary file": ("\x7fELF\0\0", [5], True, None),
}


@pytest.mark.parametrize(("content", "steps", "aside", "warning"), FOUND.values(), ids=FOUND)
def test_file_that_is_there_is_repaired_continued_or_kept(tmp_path, content, steps, aside, warning):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(Logs(tmp_path, COLUMNS), 5)
    assert [str(w.message).count(warning or "") for w in caught] == ([1] if warning else [])
    assert steps_of(path) == steps
    kept = tmp_path / "metrics.1.csv"
    assert (kept.read_bytes() if kept.exists() else None) == (content.encode() if aside else None)


def test_files_of_another_run_are_kept_together(tmp_path):
    train(Logs(tmp_path, COLUMNS), 1, 2)
    (tmp_path / "tensorboard" / "train").mkdir()  # of another callback
    train(Logs(tmp_path, COLUMNS), 1)
    train(Logs(tmp_path, COLUMNS), 2)
    train(Logs(tmp_path, COLUMNS), 1, 4)
    assert all_steps(tmp_path) == [[1, 4]] * NUM_FILES
    for number, steps in ((1, [1, 2]), (2, [1, 2])):
        assert steps_of(tmp_path / f"metrics.{number}.csv") == steps
        assert steps_of(tmp_path / f"spectral_density.{number}.csv") == steps
        kept = events(tmp_path, f"measured.{number}")
        assert [step for step, _ in kept["preconditioned_sharpness"]] == steps
    assert sorted(os.listdir(tmp_path / "tensorboard")) == [
        *("measured", "measured.1", "measured.2"),
        *("threshold", "threshold.1", "threshold.2", "train"),
    ]


@pytest.mark.parametrize("log_dir", [None, "logs"])
def test_another_model_begins_new_files_and_the_same_one_goes_on(tmp_path, log_dir):
    logs = Logs(log_dir, COLUMNS)
    train(logs, 1, 2, fresh=True)
    first = logs.directory
    assert first is not None
    train(logs, 3)
    assert all_steps(first) == [[1, 2, 3]] * NUM_FILES
    train(logs, 4, fresh=True)
    assert logs.directory == first
    assert all_steps(first) == [[4]] * NUM_FILES
    assert steps_of(first / "metrics.1.csv") == [1, 2, 3]


def test_rows_of_another_monitor_between_two_trainings_are_not_continued(tmp_path):
    logs = Logs(tmp_path, COLUMNS)
    train(logs, 1)
    train(Logs(tmp_path, COLUMNS), 2)
    train(logs, 3)
    assert all_steps(tmp_path) == [[3]] * NUM_FILES
    assert steps_of(tmp_path / "metrics.1.csv") == [1, 2]


def test_events_obey_nothing_of_the_callers(tmp_path):
    mine = tf.summary.create_file_writer(str(tmp_path / "mine"))
    with mine.as_default(step=7), tf.summary.record_if(False):
        train(Logs(tmp_path / "logs", COLUMNS), 1, 2)
        assert tf.summary.experimental.get_step() == 7
    mine.close()
    assert all_steps(tmp_path / "logs") == [[1, 2]] * NUM_FILES
    (path,) = (tmp_path / "mine").iterdir()
    assert sum(1 for _ in tf.data.TFRecordDataset(str(path))) == 1  # the version alone


def test_rows_go_on_after_closing_in_mid_training(tmp_path):
    logs = Logs(tmp_path, COLUMNS)
    logs.begin()
    write(logs, 1)
    logs.close()
    write(logs, 2)
    assert all_steps(tmp_path) == [[1, 2]] * NUM_FILES
    logs.close()
