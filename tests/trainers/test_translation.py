"""Sentences as micro-batches, and the runs that train on them."""

import dataclasses
import itertools
import json
import math

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.trainers.sentences import SENTENCES, config, write_files
from trainers import run_directory, schema, training
from trainers.data import feed as data
from trainers.data.sentences import Sentences
from trainers.data.vocabulary import BEGIN, PADDING
from trainers.errors import UserError
from trainers.schedules import WarmUp


def decoded(source, batch):
    """Sentences of a micro-batch as pairs, and its number of real target tokens."""
    (sources, targets), labels, weights = batch
    np.testing.assert_array_equal(targets[:, 0], BEGIN)
    shown = [source.vocabulary.decode(tokens.numpy()) for tokens in (sources, labels)]
    assert shown[1] == source.vocabulary.decode(targets[:, 1:].numpy())
    np.testing.assert_array_equal(weights > 0, labels != PADDING)
    return list(zip(*shown, strict=True)), int(tf.math.count_nonzero(weights))


def test_ordered_micro_batches_hold_each_pair_once(files):
    source = Sentences(config(files))
    batches = list(source.ordered(6, 2))
    found = [decoded(source, batch) for batch in batches]
    assert sorted(pair for pairs, _ in found for pair in pairs) == sorted(SENTENCES)
    num_tokens = sum(count for _, count in found)
    for (sources, targets), labels, weights in batches:
        for tokens in (sources, targets, labels):
            assert tokens.shape[1] in (8, 16, 40)
            assert tokens.dtype == tf.int32
        # K / T: the mean of K weighted sums is the mean over all T tokens.
        assert set(np.unique(weights)) <= {0, np.float32(3 / num_tokens)}
    lengths = [int(tf.math.count_nonzero(b[0][0]) + tf.math.count_nonzero(b[1])) for b in batches]
    assert lengths == sorted(lengths)


def test_shuffled_batches_hold_each_pair_once_an_epoch(files):
    source = Sentences(config(files))
    epochs = []
    for begin in (0, 3):
        parts = list(source.shuffled(6, 2).skip(begin).take(3))
        found = [decoded(source, batch) for batch in parts]
        assert sorted(pair for pairs, _ in found for pair in pairs) == sorted(SENTENCES)
        num_tokens = sum(count for _, count in found)
        assert np.unique(parts[-1][2])[-1] == np.float32(3 / num_tokens)
        epochs.append([pairs for pairs, _ in found])
    rows = list(source.shuffled(2, 2).take(6))
    orders = [[decoded(source, batch)[0] for batch in rows[i : i + 3]] for i in (0, 3)]
    assert orders[0] != orders[1]
    assert sorted(itertools.chain(*orders[0])) == sorted(SENTENCES)


def test_test_split_is_whole_and_in_the_order_of_its_text(files):
    write_files(files, "test", [SENTENCES[2], SENTENCES[5], ("no " * 90, "nein " * 90)])
    source = Sentences(config(files))
    batches = list(source.test(2))
    pairs = [pair for batch in batches for pair in decoded(source, batch)[0]]
    assert source.test_pairs is not None
    assert source.test_pairs.references == [target for _, target in pairs]
    assert source.test_pairs.sources == [text for text, _ in pairs]
    assert [len(batch[1]) for batch in batches] == [2, 1]


def test_pairs_that_are_too_long_are_left_out(files, capsys):
    source = Sentences(config(files, data={"buckets": [8, 16], "batch_size": 2}))
    assert source.num_examples < 6
    assert "pairs left out" in capsys.readouterr().err
    for (tokens, _), labels, _ in source.ordered(source.num_examples, 1):
        assert max(tokens.shape[1], labels.shape[1]) <= 16
    with pytest.raises(UserError, match="the largest of data"):
        Sentences(config(files, data={"buckets": [2]}))


def compiled(settings, feed):
    keras.utils.set_random_seed(0)
    model = training.build_model(settings, feed)
    training.compile_accumulating(model, settings, feed.num_micro_batches)
    return model


def test_accumulated_update_is_that_of_the_whole_batch(files):
    """Micro-batches of different numbers of tokens, shuffled or not, against an uncut batch."""
    weights, losses = [], []
    for size, batch_size in ((6, 6), (2, 6), (2, None)):
        keras.utils.set_random_seed(0)
        settings = config(files, data={"micro_batch_size": size, "batch_size": batch_size})
        settings.optimizer = schema.GradientDescent(learning_rate=1.0)
        feed = data.load(settings)
        model = compiled(settings, feed)
        history = model.fit(
            feed.training, steps_per_epoch=6 // size, epochs=3, shuffle=False, verbose=0
        )
        weights.append([v.numpy() for v in model.trainable_variables])
        losses.append(history.history["loss"])
    for other in (1, 2):
        # Float32 sums in another order.
        np.testing.assert_allclose(losses[other], losses[0], rtol=1e-5)
        for whole, parts in zip(weights[0], weights[other], strict=True):
            np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_loss_is_the_mean_over_real_tokens_of_training_and_monitor(files):
    settings = config(files, data={"micro_batch_size": 2})
    settings.model.label_smoothing = 0.0
    feed = data.load(settings)
    model = compiled(settings, feed)
    losses, count = 0.0, 0
    for inputs, labels, weights in feed.measured:
        log_p = tf.nn.log_softmax(model(inputs)).numpy()
        real = weights.numpy() > 0
        taken = np.take_along_axis(log_p, labels.numpy()[..., None], -1)[..., 0]
        losses, count = losses - taken[real].sum(), count + real.sum()
    measured = Objective(model, from_data(feed.measured)).linearise().loss
    assert measured == pytest.approx(losses / count, rel=1e-5)
    history = model.fit(feed.training, steps_per_epoch=3, epochs=1, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(losses / count, rel=1e-5)


def test_threshold_moves_with_the_learning_rate(files):
    """Of the last update, with micro-batches, of which Keras counts each."""
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


def test_schedule_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="after='cosine'"):
        WarmUp(1.0, 4, after="cosine")
    assert WarmUp.from_config(WarmUp(1.0, 4).get_config())(3) == 1.0


def test_run_translates_and_writes_its_directory(files):
    settings = config(files, evaluation=schema.TranslationEvaluation(freq=2, beam_width=2))
    outcome = training.train(settings, files / "run", {})
    table = pd.read_csv(files / "run" / run_directory.EVALUATION)
    assert list(table["step"]) == [2, 4]
    assert list(table.columns[2:]) == [
        *("test_loss", "test_error", "bleu", "exact_match", "copied_source_bleu")
    ]
    assert (table["test_loss"] > 0).all()
    assert table["bleu"].between(0, 100).all()
    translations = pd.read_csv(files / "run" / run_directory.TRANSLATIONS, keep_default_na=False)
    assert sorted(translations["reference"]) == sorted(target for _, target in SENTENCES[2:4])
    assert len(pd.read_csv(files / "run" / "metrics.csv")) == 2
    assert "bleu" in outcome.report(files / "run")


def test_divergence_is_a_result(files):
    settings = config(
        files, optimizer=schema.GradientDescent(learning_rate=1e30), steps=9, model=None
    )
    settings.model = schema.Transformer(
        norm="post", num_layers=1, dim=8, heads=2, hidden=8, dropout=0.0
    )
    settings.monitor = schema.Monitor(update_freq=100)
    record = training.train(settings, files / "run", {}).record
    assert record["status"] == "diverged"
    assert run_directory.is_finished(files / "run", settings)
    json.loads((files / "run" / "run.json").read_text(), parse_constant=pytest.fail)


def test_log_spaced_steps():
    section = schema.Monitor(steps_per_decade=2, every_step=[4, 5])
    settings = schema.Config(
        model=schema.Transformer(), optimizer=schema.Adam(), steps=50, monitor=section
    )
    assert training.update_freq(settings) == [1, 3, 4, 5, 10, 32, 50]


SECTIONS: dict[str, tuple[dict, str]] = {
    "images": ({"data": schema.Data()}, "Received: for translation model, evaluation"),
    "model": ({"model": schema.CNN()}, "not so model"),
    "loss": ({"loss": "squared_error"}, "loss: expected cross_entropy"),
    "heads": ({"model": schema.Transformer(dim=12, heads=4)}, "model.dim: .* number of heads, 8"),
    "languages": ({"data": schema.Translation(target="en")}, "expected two languages"),
    "files": ({"data": schema.Translation(name="files")}, "data.data_dir: expected"),
    "buckets": ({"data": schema.Translation(buckets=[8, 8])}, "data.buckets: expected rising"),
    "batch": (
        {"data": schema.Translation(batch_size=127, micro_batch_size=100)},
        "data.batch_size: 127 examples divide",
    ),
}


@pytest.mark.parametrize(("changes", "message"), SECTIONS.values(), ids=SECTIONS)
def test_sections_that_do_not_fit_are_refused(tmp_path, changes, message):
    settings = dataclasses.replace(config(tmp_path), **changes)
    with pytest.raises(UserError, match=message) as error:
        schema.check(settings)
    assert "\n" not in str(error.value)
    schema.check(config(tmp_path))
