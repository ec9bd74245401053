"""Stop criteria, what is called once at a loss, and the progress bar."""

import math

import keras
import pandas as pd

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


def test_progress_bar_shows_the_last_edge_ratio(capsys):
    class Monitor:
        history = pd.DataFrame({"edge_ratio": []})

    monitor = Monitor()
    bar = ProgressBar(3, monitor, "run")
    bar.on_train_begin()
    for epoch, ratios in enumerate(([], [0.5], [0.5, 0.75])):
        monitor.history = pd.DataFrame({"edge_ratio": ratios})
        bar.on_epoch_end(epoch, {"loss": 2.0})
        assert ("edge_ratio" in bar._shown) == bool(ratios)
    bar.on_train_end()
    assert bar._shown == {"loss": "2.0000", "edge_ratio": "0.75"}
    assert "edge_ratio=0.75" in capsys.readouterr().err
