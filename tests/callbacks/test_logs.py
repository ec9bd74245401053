"""What is on the disk, and when."""

import csv

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_aeos import AEoSMonitor
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
                len(events(self.log_dir, "measured")["step"]),
            )
        )


def events(log_dir, run):
    """``{tag: [(step, value), ...]}`` of the event files of a run."""
    values: dict = {}
    for path in sorted((log_dir / "tensorboard" / run).glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                values.setdefault(value.tag, []).append(
                    (event.step, float(tf.make_ndarray(value.tensor)))
                )
    return values


def test_every_row_is_on_the_disk_at_once(tmp_path):
    model, x, y = build("dense", "adam")
    reader = ReadWhileTraining(tmp_path)
    monitor = AEoSMonitor(update_freq=1, log_dir=tmp_path)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor, reader])
    assert reader.num_rows == [(1, 1), (2, 2), (3, 3)]


def test_history_csv_and_tensorboard_agree(tmp_path):
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor(update_freq=1, num_eigenvalues=3, log_dir=tmp_path)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor])
    columns = [*COLUMNS, "preconditioned_sharpness_2", "preconditioned_sharpness_3"]
    assert list(monitor.history.columns) == columns
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "metrics.csv"), monitor.history)
    measured, threshold = events(tmp_path, "measured"), events(tmp_path, "threshold")
    assert list(measured) == columns
    for column in columns:
        steps, values = zip(*measured[column], strict=True)
        assert list(steps) == [1, 2, 3]
        np.testing.assert_allclose(values, monitor.history[column].astype(float), rtol=1e-6)
    # The threshold stands under the sharpness's tag in a run of its own: one chart, two colours.
    assert list(threshold) == ["preconditioned_sharpness"]
    assert threshold["preconditioned_sharpness"] == measured["stability_threshold"]


def test_default_directory_is_below_logs(tmp_path):
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor(update_freq=1)
    fit_one(model, x, y, monitor)
    assert str(monitor.log_dir).startswith("logs/aeos/")
    assert (tmp_path / monitor.log_dir / "metrics.csv").exists()


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
