"""Sentences as micro-batches."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.sentences import SENTENCES, config, write_files
from trainers.data.sentences import Sentences
from trainers.data.vocabulary import BEGIN, PADDING
from trainers.errors import UserError


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
