"""The latest values in Keras' `logs`, as Keras' own callbacks see them."""

import math
import re

import keras
import numpy as np
import pandas as pd
import pytest

from keras_aeos import AEoSMonitor
from keras_aeos.callbacks.latest import NAMES, LatestValues
from keras_aeos.callbacks.running import put_first
from tests.cases import build

NUM_EPOCHS = 4


class BatchLogs(keras.callbacks.Callback):
    """The logs of every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))


class Trained:
    """One `fit` with Keras' callbacks before a monitor; three updates an epoch."""

    def __init__(self, directory, printed):
        model, x, y = build("dense", "adam")
        self.monitor = AEoSMonitor((x, y), update_freq=2, log_dir=directory / "logs")
        self.before, self.after = BatchLogs(), BatchLogs()
        self.early = keras.callbacks.EarlyStopping("edge_ratio", mode="min", patience=NUM_EPOCHS)
        self.plateau = keras.callbacks.ReduceLROnPlateau(
            "stability_threshold", mode="max", patience=NUM_EPOCHS
        )
        checkpoint = keras.callbacks.ModelCheckpoint(
            directory / "{epoch}_{edge_ratio:.6f}.weights.h5", save_weights_only=True
        )
        self.csv = directory / "keras.csv"
        csv = keras.callbacks.CSVLogger(self.csv)
        callbacks = [self.before, self.early, self.plateau, checkpoint, csv]
        callbacks += [self.monitor, self.after]
        self.history = model.fit(
            x, y, batch_size=4, epochs=NUM_EPOCHS, verbose=2, callbacks=callbacks
        ).history
        self.checkpoints = sorted(path.name for path in directory.glob("*.weights.h5"))
        self.printed = printed()

    def last_known(self, name, step):
        """The last known value after an update, from the monitor's own rows."""
        rows = self.monitor.history
        known = rows[(rows["step"] <= step) & rows[name].notna()][name]
        return known.iloc[-1] if len(known) else math.nan

    def at_epochs(self, name):
        return [self.last_known(name, 3 * (epoch + 1)) for epoch in range(NUM_EPOCHS)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras.src.utils.io_utils.print_msg", lambda m, **_: printed.append(m))
        return Trained(tmp_path_factory.mktemp("fit"), lambda: "".join(printed))


@pytest.mark.parametrize("name", NAMES)
def test_every_batch_has_the_last_known_value(trained, name):
    """Callbacks before the monitor see it before the row of this batch."""
    expected = [trained.last_known(name, step) for step in range(3 * NUM_EPOCHS + 1)]
    assert math.isnan(expected[1])
    assert not math.isnan(expected[-1])
    np.testing.assert_array_equal([logs[name] for logs in trained.before.seen], expected[:-1])
    np.testing.assert_array_equal([logs[name] for logs in trained.after.seen], expected[1:])


# What each callback of Keras has seen, and the same from the monitor's rows.
SEEN = {
    "History": lambda t: (
        [t.history[name] for name in NAMES],
        [t.at_epochs(name) for name in NAMES],
    ),
    "CSVLogger": lambda t: (
        pd.read_csv(t.csv)[list(NAMES)].to_numpy().T,
        [t.at_epochs(name) for name in NAMES],
    ),
    "EarlyStopping": lambda t: (t.early.best, min(t.at_epochs("edge_ratio"))),
    "ReduceLROnPlateau": lambda t: (t.plateau.best, t.at_epochs("stability_threshold")[0]),
    "ModelCheckpoint": lambda t: (
        t.checkpoints,
        [f"{n}_{r:.6f}.weights.h5" for n, r in enumerate(t.at_epochs("edge_ratio"), 1)],
    ),
    "ProgbarLogger": lambda t: (
        re.findall(r" - edge_ratio: (\S+)", t.printed),
        [f"{r:.4f}" if r > 1e-3 else f"{r:.4e}" for r in t.at_epochs("edge_ratio")],
    ),
}


@pytest.mark.parametrize("callback", SEEN)
def test_callback_of_keras_sees_the_values(trained, callback):
    np.testing.assert_array_equal(*SEEN[callback](trained))


def row(value):
    return dict.fromkeys(NAMES, value)


# Keys that are there already, which stay as they are, and the key of the edge ratio.
TAKEN = {
    "none": ({"loss": 1.0}, "edge_ratio"),
    "a metric of the model": ({"sharpness": 7.0}, "edge_ratio_2"),
    "two other monitors": (row(1.0) | {f"{name}_2": 2.0 for name in NAMES}, "edge_ratio_3"),
}


@pytest.mark.parametrize(("logs", "key"), TAKEN.values(), ids=TAKEN)
def test_key_that_is_taken_gets_a_number(logs, key):
    latest = LatestValues(NAMES)
    latest.begin()
    latest.note(row(0.5))
    for _ in range(2):
        given = dict(logs)
        latest.add_to(given)
        assert given[key] == 0.5
        assert {name: given[name] for name in logs} == logs


class WithValues(keras.callbacks.Callback):
    """Has values in the logs, as the monitor does."""

    def __init__(self, value):
        super().__init__()
        self.latest = LatestValues(NAMES)
        self.latest.note(row(value))

    def on_train_begin(self, logs=None):
        self.latest.begin()
        put_first(self.latest, self)


def test_values_come_before_all_callbacks_and_in_their_order():
    reader, one, two = BatchLogs(), WithValues(1.0), WithValues(2.0)
    calls = keras.callbacks.CallbackList([reader, one, two])
    for _ in range(2):  # a list may serve several trainings
        calls.on_train_begin()
        calls.on_train_batch_end(0, {"loss": 3.0})
        calls.on_train_end()
    assert reader.seen == [{"loss": 3.0} | row(1.0) | {f"{name}_2": 2.0 for name in NAMES}] * 2
    assert calls.callbacks == [one.latest, two.latest, reader, one, two]


def test_first_loss_is_that_of_the_first_batch():
    latest = LatestValues(NAMES)
    for loss in (3.0, 2.0):
        latest.add_to({"loss": loss})
    assert latest.first_loss == 3.0
    latest.forget()
    assert latest.first_loss is None


def test_what_is_not_measured_has_no_key_and_what_is_missing_keeps_its_value():
    latest = LatestValues([name for name in NAMES if name != "sharpness"])
    latest.note(row(0.5))
    latest.note(row(math.nan) | {"edge_ratio": 0.75})
    logs = {"loss": 2.0}
    latest.add_to(logs)
    assert logs == {
        "loss": 2.0,
        "edge_ratio": 0.75, "preconditioned_sharpness": 0.5, "stability_threshold": 0.5,
    }  # fmt: skip
