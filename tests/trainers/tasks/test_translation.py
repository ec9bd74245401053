"""Updates, losses and thresholds of runs that learn to translate."""

import json
import math

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.trainers.sentences import config
from trainers import loop, run_directory, schema, training
from trainers.tasks.base import task_of


def compiled(settings):
    """A compiled model and what it is fed."""
    keras.utils.set_random_seed(0)
    task = task_of(settings)
    feed = task.feed()
    model = task.build_model()
    training.compile_model(model, task)
    return model, feed


def test_accumulated_update_is_that_of_the_whole_batch(files):
    """Micro-batches of different numbers of tokens, shuffled or not, against an uncut batch."""
    weights, losses = [], []
    for size, batch_size in ((6, 6), (2, 6), (2, None)):
        keras.utils.set_random_seed(0)
        settings = config(files, data={"micro_batch_size": size, "batch_size": batch_size})
        settings.optimizer = schema.OPTIMIZERS["gradient_descent"](learning_rate=1.0)
        model, feed = compiled(settings)
        loop.fit(model, feed, 3, [])
        weights.append([v.numpy() for v in model.trainable_variables])
        losses.append(model.history.history["loss"])
    for other in (1, 2):
        # Float32 sums in another order.
        np.testing.assert_allclose(losses[other], losses[0], rtol=1e-5)
        for whole, parts in zip(weights[0], weights[other], strict=True):
            np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_loss_is_the_mean_over_real_tokens_of_training_and_monitor(files):
    settings = config(files, data={"micro_batch_size": 2})
    settings.model.label_smoothing = 0.0
    model, feed = compiled(settings)
    losses, count = 0.0, 0
    for inputs, labels, weights in feed.measured:
        log_p = tf.nn.log_softmax(model(inputs)).numpy()
        real = weights.numpy() > 0
        taken = np.take_along_axis(log_p, labels.numpy()[..., None], -1)[..., 0]
        losses, count = losses - taken[real].sum(), count + real.sum()
    measured = Objective(model, from_data(feed.measured)).linearise().loss
    assert measured == pytest.approx(losses / count, rel=1e-5)
    loop.fit(model, feed, 1, [])
    assert model.history.history["loss"][0] == pytest.approx(losses / count, rel=1e-5)


@pytest.mark.slow
def test_threshold_moves_with_the_learning_rate(files):
    """Of the last update, with micro-batches."""
    settings = config(
        files,
        data={"micro_batch_size": 2},
        schedule=schema.Schedule(warmup_steps=3, after="inverse_square_root"),
        monitor=schema.Monitor(update_freq=1, rtol=0.1, quantities=[]),
        steps=5,
    )
    training.train(settings, files / "run", {})
    table = pd.read_csv(files / "run" / "metrics.csv")
    rates = 1e-2 * np.array([1 / 3, 2 / 3, 1, math.sqrt(3 / 4), math.sqrt(3 / 5)])
    np.testing.assert_allclose(table["learning_rate"], rates, rtol=1e-6)
    np.testing.assert_allclose(table["stability_threshold"], 38 / rates, rtol=1e-5)


@pytest.mark.slow
def test_divergence_is_a_result(files):
    settings = config(files, steps=9)
    settings.optimizer = schema.OPTIMIZERS["gradient_descent"](learning_rate=1e30)
    settings.model = schema.Transformer(
        norm="post", num_layers=1, dim=8, heads=2, hidden=8, dropout=0.0
    )
    settings.monitor = schema.Monitor(update_freq=100)
    record = training.train(settings, files / "run", {}).record
    assert record["status"] == "diverged"
    assert run_directory.is_finished(files / "run", settings)
    json.loads((files / "run" / "run.json").read_text(), parse_constant=pytest.fail)
