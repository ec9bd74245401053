"""Rows of logs without a model, and what is read back from the disk."""

import csv
import pathlib

import tensorflow as tf

from keras_aeos.callbacks.quantities import TABLES

COLUMNS = ["step", "preconditioned_sharpness", "stability_threshold"]
NUM_FILES = 3 + len(TABLES)  # one for the rows, two of TensorBoard
HEADER = "step,preconditioned_sharpness,stability_threshold\r\n"


def row(step):
    return dict(zip(COLUMNS, (step, step + 0.5, step + 0.25), strict=True))


def tables(step):
    """One line in each table."""
    text = {"step": step, "operator": "raw", "layer": "dense"}
    return {
        name: [dict.fromkeys(columns, 0.0) | {k: text[k] for k in columns if k in text}]
        for name, columns in TABLES.items()
    }


def write(logs, *steps):
    for step in steps:
        logs.write(row(step), tables(step))


def train(logs, *steps, fresh=False):
    logs.begin(fresh)
    write(logs, *steps)
    logs.close()


def steps_of(path):
    """Steps of a CSV file whose lines are all whole."""
    content = pathlib.Path(path).read_bytes()
    assert content.endswith(b"\n")
    header, *lines = csv.reader(content.decode().splitlines())
    assert all(len(line) == len(header) for line in lines)
    return [int(line[header.index("step")]) for line in lines]


def all_steps(directory):
    """The steps in each of the files; TensorFlow reads the events and checks their sums."""
    runs = [events(directory, run) for run in ("measured", "threshold")]
    return [
        steps_of(directory / "metrics.csv"),
        *(steps_of(directory / f"{table}.csv") for table in TABLES),
        *([step for step, _ in run.get("preconditioned_sharpness", [])] for run in runs),
    ]


def events(log_dir, run):
    """``{column: [(step, value), ...]}`` of the charts of a run; a tag is a group and a column."""
    values: dict = {}
    for plugin, tag, step, tensor in summaries(log_dir, run):
        if plugin == "scalars":
            values.setdefault(tag.partition("/")[2], []).append((step, float(tensor)))
    return values


def summaries(log_dir, run):
    """Plugin, tag, step and content of everything in the event files of a run."""
    for step, value in written(log_dir, run):
        yield value.metadata.plugin_data.plugin_name, value.tag, step, tf.make_ndarray(value.tensor)


def written(log_dir, run):
    """Step and value of everything in the event files of a run."""
    for path in sorted((log_dir / "tensorboard" / run).glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                yield event.step, value
