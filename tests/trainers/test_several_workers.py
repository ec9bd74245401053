"""Runs of several processes: they train as one, and go on together after an interruption."""

import json
import signal
import time

import h5py
import numpy as np
import pandas as pd
import pytest

from keras_aeos import array_files
from tests.trainers import several_workers
from tests.trainers.endurance import measured_in, results
from tests.trainers.prepared import write_cifar
from trainers import run_directory
from trainers.__main__ import main

QUANTITIES = "[sharpness,gradient_norm_squared,batch_sharpness]"
SETTINGS = [
    *("-cn", "quickstart", "data.num_examples=60", "model.width=4", "monitor.update_freq=2"),
    f"monitor.quantities={QUANTITIES}",
]
SHORT = [*SETTINGS, "steps=4"]


def run(arguments, other):
    """Run a command in two processes to its end."""
    statuses, printed = several_workers.ended(several_workers.start(2, arguments, other))
    assert statuses == [0, 0], "\n".join(printed)


def weights_in(file):
    """All numbers of a file of weights."""
    with h5py.File(file) as weights:
        found = []
        weights.visititems(
            lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.mark.parametrize(
    "batch", ["data.batch_size=null", pytest.param("data.batch_size=30", marks=pytest.mark.slow)]
)
def test_two_workers_train_as_one_process(batch, tmp_path):
    two, other = tmp_path / "two", tmp_path / "other"
    several = ["strategy=multi_worker", "data.micro_batch_size=15"]
    run([*SHORT, batch, *several, f"output_dir={two}"], other)
    # A micro-batch of two workers has 30 examples.
    main([*SHORT, batch, "data.micro_batch_size=30", f"output_dir={tmp_path / 'one'}"])
    chief, worker = (weights_in(place / run_directory.WEIGHTS) for place in (two, other / "two"))
    assert len(chief) == len(worker) > 0
    for ours, theirs in zip(chief, worker, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    one, both = (measured_in(place) for place in (tmp_path / "one", two))
    assert one["step"].tolist() == [2, 4]
    assert one["batch_sharpness"].notna().all()
    pd.testing.assert_frame_equal(both, one, check_dtype=False, rtol=1e-4)


IMAGES = ["data.num_examples=24", "data.micro_batch_size=6", "stop.loss_threshold=null"]
NETWORKS = {
    "cnn": ["-cn", "cnn", *IMAGES, "model.filters=[2,3,2]", "model.units=[4,3]"],
    "wide_resnet": [
        *("-cn", "wide_resnet", "data.name=cifar10", *IMAGES, "model.blocks_per_group=1"),
        *("model.multiplier=1", "model.filters=1", "model.stem_stride=4"),
    ],
    "resnet50": [
        *("-cn", "resnet50", "data.name=cifar10", *IMAGES, "data.batch_size=null"),
        *("monitor.num_examples=null", "evaluation.freq=null"),
    ],
    "transformer": [
        *("-cn", "transformer_quickstart", "model.num_layers=1", "model.dim=8", "model.heads=2"),
        *("model.hidden=8", "model.dropout=0.1", "data.num_examples=64", "data.batch_size=8"),
        *("data.micro_batch_size=2", "monitor.num_examples=8", "schedule.warmup_steps=0"),
        *("monitor.steps_per_decade=null", "evaluation.freq=2", "evaluation.num_examples=4"),
    ],
}
NETWORKS["without BatchNorm"] = [*NETWORKS["wide_resnet"], "model.batch_norm=false"]


@pytest.mark.slow
def test_every_network_takes_a_step_in_several_processes(tmp_path):
    """All processes have the same weights afterwards; averages of BatchNorm are among them."""
    cifar = write_cifar(tmp_path / "tfds")
    arguments = []
    for name, settings in NETWORKS.items():
        data = "vocabulary_dir" if name == "transformer" else "data_dir"
        place = tmp_path / "vocabularies" if name == "transformer" else cifar
        arguments += ["--", *settings, f"data.{data}={place}", f"output_dir={tmp_path / name}"]
        arguments += ["steps=2", "monitor.update_freq=1", "monitor.rtol=1e-1"]
        arguments += ["strategy=multi_worker"]
    run(arguments, tmp_path / "other")
    for name in NETWORKS:
        chief, worker = (
            weights_in(place / name / run_directory.WEIGHTS)
            for place in (tmp_path, tmp_path / "other")
        )
        assert len(chief) > 4
        for ours, theirs in zip(chief, worker, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert measured_in(tmp_path / name)["step"].tolist() == [1, 2]


LONG = [
    *(*SETTINGS, "steps=60", "data.batch_size=30", "data.micro_batch_size=15"),
    *("checkpoint.freq=3", "strategy=multi_worker"),
]


def interrupted(arguments, place, other, worker, number):
    """Send a signal to a worker after a new checkpoint; statuses, last lines, and the files."""
    known = set((place / "checkpoints").glob("*.npz"))
    started = several_workers.start(2, arguments, other)
    limit = time.monotonic() + several_workers.NUM_SECONDS
    while set((place / "checkpoints").glob("*.npz")) <= known and time.monotonic() < limit:
        assert all(each.poll() is None for each in started)
        time.sleep(0.01)
    started[worker].send_signal(number)
    statuses, printed = several_workers.ended(started)
    files = sorted((place / "checkpoints").glob("*.npz"))
    assert files
    for path in files:
        array_files.read(path)
    record = json.loads((place / "run.json").read_text())
    return statuses, printed, record


@pytest.mark.slow
def test_workers_that_end_early_go_on_together_as_if_they_had_not(tmp_path):
    """One of them is killed, or told to end; what the other one says and leaves behind."""
    whole, place = tmp_path / "whole", tmp_path / "run"
    run([*LONG, f"output_dir={whole}"], tmp_path / "other")
    arguments = [*LONG, f"output_dir={place}"]
    other = tmp_path / "workers"

    statuses, printed, record = interrupted(arguments, place, other, 1, signal.SIGKILL)
    assert statuses == [1, -signal.SIGKILL], printed[0]
    assert "Traceback" not in printed[0]
    last = printed[0].splitlines()[-1]
    assert last.startswith("error: another process of the run has ended or can't be reached")
    assert record["status"] == "interrupted"

    statuses, printed, record = interrupted(arguments, place, other, 1, signal.SIGTERM)
    assert statuses == [143, 143], printed
    lines = [text.splitlines()[-1] for text in printed]
    assert all("interrupted by SIGTERM after update" in line for line in lines)
    assert ".npz" in lines[0]
    assert record["status"] == "interrupted"

    run(arguments, other)
    resumed = json.loads((place / "run.json").read_text())["resumed_at"]
    assert 0 < resumed[0] < resumed[1] < 60
    assert results(place) == results(whole)
    chief, worker = (weights_in(p / run_directory.WEIGHTS) for p in (place, other / "run"))
    for ours, theirs in zip(chief, worker, strict=True):
        np.testing.assert_array_equal(ours, theirs)
