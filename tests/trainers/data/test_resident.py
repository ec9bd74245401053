"""Full batches on the devices: the same training, and nothing is fetched for an update."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.strategies import strategy_of
from trainers import loop, run_directory, schema, training
from trainers.data import resident
from trainers.data.share import Share
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
    placed = []

    def noted(parts, strategy):
        placed.append(resident.resident(parts, strategy))
        return placed[-1]

    monkeypatch.setattr(loop, "resident", noted)
    weights, table = results(settings, tmp_path / "resident")
    assert len(placed) == 1
    assert placed[0] is not None
    monkeypatch.setattr(loop, "resident", lambda parts, strategy: None)
    expected_weights, expected_table = results(settings, tmp_path / "fetched")
    for ours, theirs in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pd.testing.assert_frame_equal(table, expected_table, check_exact=True)
    assert len(table) == 2


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_resident_micro_batches_are_those_of_the_data_set(num_replicas):
    strategy = strategy_of("mirrored 2") if num_replicas == 2 else tf.distribute.get_strategy()
    feed = task_of(config()).feed(num_replicas)
    placed = resident.resident(feed.full_batch or (), strategy)
    assert placed is not None
    fetched = list(feed.training(Share(num_replicas)).take(num_replicas * feed.num_micro_batches))
    for index, part in enumerate(placed):
        for replica, pieces in enumerate(strategy.experimental_local_results(part)):
            expected = [batch[index] for batch in fetched[replica::num_replicas]]
            np.testing.assert_array_equal(pieces, expected)
            assert pieces.device.endswith(f"CPU:{replica}")


def test_minibatches_are_fetched():
    assert task_of(config(batch_size=20)).feed().full_batch is None


@pytest.mark.parametrize(("room", "fits"), [(4 * 24, True), (4 * 24 - 1, False)])
def test_it_is_resident_if_the_device_has_room(room, fits, monkeypatch):
    """A processor always has: the examples are in its memory anyway."""
    parts = [tf.zeros([2, 3, 3]), tf.zeros([2, 3])]
    strategy = tf.distribute.get_strategy()
    assert resident.resident(parts, strategy) is not None
    monkeypatch.setattr(resident, "is_host", lambda device: False)
    monkeypatch.setattr(resident, "room", lambda device: room)
    assert (resident.resident(parts, strategy) is not None) == fits
