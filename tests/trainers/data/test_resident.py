"""Full batches on the device: the same training, and nothing is fetched for an update."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from trainers import run_directory, schema, training
from trainers.data import images, resident
from trainers.tasks.base import task_of


def config(batch_size=None, micro_batch_size=20):
    """Four updates of a small network on 60 digits."""
    return schema.Config(
        model=schema.FullyConnected(hidden_layers=1, width=8),
        data=schema.Data(
            name="digits",
            num_examples=60,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
        ),
        optimizer=schema.OPTIMIZERS["adam"](learning_rate=1e-3),
        steps=4,
        monitor=schema.Monitor(update_freq=2),
        output_dir="",
    )


def results(settings, directory):
    """The weights after a run, and its measurements."""
    training.train(settings, directory, {})
    model = task_of(settings).build_model()
    model.load_weights(directory / run_directory.WEIGHTS)
    table = pd.read_csv(directory / run_directory.METRICS)
    return model.get_weights(), table.drop(columns=["seconds", "overhead"])


@pytest.mark.parametrize("micro_batch_size", [20, 60])
def test_training_and_measurements_are_the_same_bits(micro_batch_size, tmp_path, monkeypatch):
    settings = config(micro_batch_size=micro_batch_size)
    stock, fed = resident.ResidentBatch.feed, []

    def feed(self, model):
        fed.append(self)
        stock(self, model)

    monkeypatch.setattr(resident.ResidentBatch, "feed", feed)
    weights, table = results(settings, tmp_path / "resident")
    assert len(fed) == 1
    monkeypatch.setattr(images, "resident", lambda parts: None)
    expected_weights, expected_table = results(settings, tmp_path / "fetched")
    assert len(fed) == 1
    for ours, theirs in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pd.testing.assert_frame_equal(table, expected_table, check_exact=True)
    assert len(table) == 2


def test_resident_micro_batches_are_those_of_the_data_set():
    feed = task_of(config()).feed()
    assert feed.resident is not None
    seen: list[tuple[tf.Tensor, ...]] = []
    step = feed.resident._step(seen.append)
    for number in feed.resident.numbers.take(4):
        step(number)
    for (x, y), (expected_x, expected_y) in zip(seen, feed.training.take(4), strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


def test_minibatches_are_fetched():
    assert task_of(config(batch_size=20)).feed().resident is None


@pytest.mark.parametrize(("room", "fits"), [(4 * 24, True), (4 * 24 - 1, False)])
def test_it_is_resident_if_the_device_has_room(room, fits, monkeypatch):
    """A processor always has: the examples are in its memory anyway."""
    parts = [tf.zeros([2, 3, 3]), tf.zeros([2, 3])]
    assert resident.resident(parts) is not None
    monkeypatch.setattr(resident, "is_host", lambda device: False)
    monkeypatch.setattr(resident, "room", lambda device: room)
    assert (resident.resident(parts) is not None) == fits
