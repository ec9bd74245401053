"""Stop criteria, what is called once at a loss, and the progress bar."""

import io
import math
import re
import sys
from types import SimpleNamespace

import keras
import pytest

from trainers import callbacks
from trainers.callbacks import OnceBelow, ProgressBar, StopCriteria, TrainingLoss


def test_training_loss_is_the_mean_over_an_epoch():
    loss = TrainingLoss(3)
    assert [loss.after(value) for value in (6.0, 3.0, 0.0, 3.0)] == [math.inf, math.inf, 3.0, 2.0]
    assert TrainingLoss(1).after(0.5) == 0.5


def losses_after(callback, losses):
    model = keras.Sequential()
    model.stop_training = False
    callback.set_model(model)
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"loss": loss})
    return callback


def test_function_is_called_once_when_the_loss_is_below():
    calls = []
    once = OnceBelow(0.5, 2, lambda: calls.append(1))
    losses_after(once, [1.0, 0.2, 0.6, 0.3, 0.1, 0.9, 0.1])
    # Means of two: 0.6, 0.4 after the third.
    assert once.step == 3
    assert calls == [1]


def test_a_single_low_batch_ends_no_run_in_minibatches():
    stop = losses_after(StopCriteria(0.5, 2), [1.0, 0.1])
    assert not stop.model.stop_training
    assert losses_after(StopCriteria(0.5, 1), [1.0, 0.1]).model.stop_training
    assert losses_after(StopCriteria(0.5, 2), [0.6, 0.1]).model.stop_training


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, first_epoch=0):
    """What a progress bar writes in four updates, 20 seconds apart."""
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys, "stderr", stream)
    bar = ProgressBar(first_epoch + 4, "run")
    bar.on_train_begin()
    for epoch, ratio in enumerate((math.nan, 0.5, 0.5, 0.75), first_epoch):
        bar.on_epoch_begin(epoch)
        bar.on_epoch_end(epoch, {"loss": 2.0, "edge_ratio": ratio})
    bar.on_train_end()
    return stream.getvalue()


def test_progress_bar_shows_loss_edge_ratio_and_time_to_go(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert re.search(r"4/4, \S+ to go, loss=2, edge_ratio=0\.75", text)


@pytest.mark.parametrize("first_epoch", [0, 100])
def test_without_a_terminal_a_line_is_written_every_half_minute(monkeypatch, first_epoch):
    total = first_epoch + 4
    assert shown(monkeypatch, io.StringIO(), first_epoch).splitlines() == [
        f"run: step {first_epoch + 2} of {total}, loss 2, edge_ratio 0.50, 00:40 to go",
        f"run: step {first_epoch + 4} of {total}, loss 2, edge_ratio 0.75, 00:00 to go",
    ]
