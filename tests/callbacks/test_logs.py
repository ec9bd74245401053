"""What is on the disk, and when."""

import csv
import errno
import os

import keras
import numpy as np
import pandas as pd
import pytest

from keras_aeos import AEoSMonitor
from tests.callbacks.log_cases import events
from tests.cases import build, fit_one

COLUMNS = [
    "step", "epoch", "learning_rate", "loss", "preconditioned_sharpness", "stability_threshold",
    "edge_ratio", "spectral_gap", "smallest_eigenvalue", "sharpness", "gradient_norm_squared",
    "preconditioner_norm_squared", "largest_stable_learning_rate", "residual", "error_bound",
    "upper_bound", "num_hvps", "seconds", "overhead", "converged", "exact",
]  # fmt: skip


class ReadWhileTraining(keras.callbacks.Callback):
    """What is on the disk after each batch."""

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir, self.num_rows = log_dir, []

    def on_train_batch_end(self, batch, logs=None):
        self.num_rows.append(
            (
                len(pd.read_csv(self.log_dir / "metrics.csv")),
                len(events(self.log_dir, "measured")["loss"]),
            )
        )


def test_every_row_is_on_the_disk_at_once(tmp_path):
    model, x, y = build("dense", "adam")
    reader = ReadWhileTraining(tmp_path)
    monitor = AEoSMonitor(update_freq=1, log_dir=tmp_path)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor, reader])
    assert reader.num_rows == [(1, 1), (2, 2), (3, 3)]


def test_history_csv_and_tensorboard_agree(tmp_path):
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor(update_freq=1, num_eigenvalues=3, log_dir=tmp_path)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[monitor])
    columns = [*COLUMNS, "preconditioned_sharpness_2", "preconditioned_sharpness_3"]
    assert list(monitor.history.columns) == columns
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "metrics.csv"), monitor.history)
    measured, threshold = events(tmp_path, "measured"), events(tmp_path, "threshold")
    assert set(measured) == set(columns) - {"step", "epoch", "stability_threshold"}
    for column in measured:
        steps, values = zip(*measured[column], strict=True)
        # What was left to another row is no event: TensorBoard marks events of NaN.
        assert list(steps) == ([2] if column == "sharpness" else [1, 2, 3, 4, 5, 6])
        expected = monitor.history[column][monitor.history["step"].isin(steps)]
        np.testing.assert_allclose(values, expected.astype(float), rtol=1e-6)
    # Lines stand under the curves' tags in a run of their own: one chart, two colours.
    lines = {
        "preconditioned_sharpness": monitor.history["stability_threshold"],
        "largest_stable_learning_rate": monitor.history["learning_rate"],
        "edge_ratio": 1.0 + 0.0 * monitor.history["edge_ratio"],
    }
    assert set(threshold) == set(lines)
    for column, expected in lines.items():
        np.testing.assert_allclose([v for _, v in threshold[column]], expected, rtol=1e-6)


def test_default_directory_is_below_logs(tmp_path):
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor(update_freq=1)
    fit_one(model, x, y, monitor)
    assert monitor.log_dir is not None
    assert monitor.log_dir.parent == tmp_path / "logs" / "aeos"
    assert (monitor.log_dir / "metrics.csv").exists()


@pytest.mark.parametrize("monitor_first", [False, True])
@pytest.mark.parametrize("update_freq", ["epoch", "batch", 7, 100])
def test_rows_are_written_beside_the_tensorboard_callback(tmp_path, update_freq, monitor_first):
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor((x, y), update_freq=1, log_dir=tmp_path)
    keras_own = keras.callbacks.TensorBoard(str(tmp_path / "keras"), update_freq=update_freq)
    callbacks = [monitor, keras_own] if monitor_first else [keras_own, monitor]
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    assert [step for step, _ in events(tmp_path, "measured")["edge_ratio"]] == [1, 2, 3]


def test_full_disk_does_not_end_training(tmp_path, monkeypatch):
    """The trained weights are those of a run whose logs can be written, and no row is lost."""

    def run(log_dir, fails):
        keras.utils.set_random_seed(0)
        model, x, y = build("dense", "adam")
        monitor = AEoSMonitor((x, y), update_freq=1, log_dir=log_dir)
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr(os, "write", lambda *_: no_space())
            model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])
        return monitor, model.get_weights()

    def no_space():
        raise OSError(errno.ENOSPC, "No space left on device")

    _, expected = run(tmp_path / "free", False)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        monitor, weights = run(tmp_path / "full", True)
    assert sum("No space left" in str(warning.message) for warning in caught) == 1
    assert monitor.history["step"].tolist() == [1, 2, 3]
    assert all(map(np.array_equal, weights, expected))


def test_impossible_directory_is_refused_before_the_first_update(tmp_path):
    (tmp_path / "file").write_text("")
    model, x, y = build("dense", "adam")
    with pytest.raises(ValueError, match="`log_dir` must be a local directory"):
        fit_one(model, x, y, AEoSMonitor(update_freq=1, log_dir=tmp_path / "file"))
    assert int(model.optimizer.iterations) == 0


def test_two_monitors_in_one_fit_write_to_two_directories(tmp_path):
    model, x, y = build("dense", "adam")
    monitors = [AEoSMonitor((x, y), update_freq=n, log_dir=tmp_path / "logs") for n in (1, 2)]
    with pytest.warns(UserWarning, match="in use by another monitor"):
        model.fit(x, y, batch_size=4, verbose=0, callbacks=monitors)
    directories = [tmp_path / "logs", tmp_path / "logs-2"]
    assert [monitor.log_dir for monitor in monitors] == directories
    for monitor, directory in zip(monitors, directories, strict=True):
        pd.testing.assert_frame_equal(pd.read_csv(directory / "metrics.csv"), monitor.history)


def test_log_of_another_run_is_kept_and_that_of_a_resumed_one_continued():
    def run(log_dir, initial_steps):
        model, x, y = build("dense", "adam")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(initial_steps)
        monitor = AEoSMonitor(update_freq=1, log_dir=log_dir)
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])

    def steps(path):
        with open(path, newline="") as file:
            return [int(row["step"]) for row in csv.DictReader(file)]

    run("logs", 0)
    run("logs", 3)
    assert steps("logs/metrics.csv") == [1, 2, 3, 4, 5, 6]
    run("logs", 4)
    run("logs", 0)
    assert steps("logs/metrics.csv") == [1, 2, 3]
    assert steps("logs/metrics.2.csv") == [5, 6, 7]
    assert steps("logs/metrics.1.csv") == [1, 2, 3, 4, 5, 6]
