"""Greedy and beam search."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.models.test_transformer import VOCABULARY, micro_batch, network
from trainers.data.vocabulary import BEGIN, END, PADDING
from trainers.evaluation.decoding import Decoder, beam_search, greedy_search

LIMIT = 6


def sentences(seed=0):
    (source, _), *_ = micro_batch([3, 5, 6, 8], 8, seed)
    return source


@pytest.mark.parametrize("seed", range(3))
def test_beam_of_one_is_greedy(seed):
    model = network(dtype="float32")
    source = sentences(seed)
    greedy = greedy_search(model, source, LIMIT)
    np.testing.assert_array_equal(beam_search(model, source, LIMIT, 1, 0.6), greedy)


def test_greedy_search_follows_the_most_probable_token():
    model = network(dtype="float32")
    source = sentences()
    found = greedy_search(model, source, LIMIT).numpy()
    for row, one in enumerate(source):
        prefix = [BEGIN]
        while len(prefix) <= LIMIT and prefix[-1] != END:
            logits = model((one[None], tf.constant([prefix])))[0, -1].numpy()
            logits[[PADDING, BEGIN]] = -np.inf
            prefix.append(int(logits.argmax()))
        expected = prefix[1:] + [PADDING] * (found.shape[1] - len(prefix) + 1)
        assert list(found[row]) == expected


def log_probabilities(model, source, translations):
    """Of translations (N, L), padded, given one source sentence."""
    prefixes = np.concatenate([np.full_like(translations[:, :1], BEGIN), translations[:, :-1]], 1)
    logits = model((tf.repeat(source[None], len(prefixes), 0), tf.constant(prefixes)))
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float64)).numpy()
    taken = np.take_along_axis(log_p, translations[..., None], -1)[..., 0]
    return (taken * (translations != PADDING)).sum(-1)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_wide_beam_finds_the_best_of_all(length_penalty):
    """With room for every hypothesis of at most 2 tokens the search is exhaustive."""
    model = network(dtype="float32")
    # A sharper distribution than an untrained one.
    model.embedding.table.assign(3.0 * model.embedding.table)
    source, limit = sentences(), 2
    words = [token for token in range(VOCABULARY) if token not in (PADDING, BEGIN, END)]
    everything = [(END,), *((word, END) for word in words), *itertools.product(words, words)]
    found = beam_search(model, source, limit, len(everything), length_penalty).numpy()
    unknown = [t for t in everything if len(t) == limit]
    assert len(unknown) == len(words) * (len(words) + 1)
    padded = np.array([[*tokens, PADDING][:limit] for tokens in everything], np.int32)
    penalty = ((5 + (padded != PADDING).sum(1)) / 6) ** length_penalty
    for row, one in enumerate(source):
        best = padded[np.argmax(log_probabilities(model, one, padded) / penalty)]
        np.testing.assert_array_equal(found[row], best[: found.shape[1]])


@pytest.mark.parametrize("width", [1, 3])
def test_padding_changes_no_translation(width):
    model = network(dtype="float32")
    decoder = Decoder(model, width, extra_tokens=4)
    source = sentences()
    alone = [decoder(row[None, : int(tf.math.count_nonzero(row))]).numpy()[0] for row in source]
    limit = min(map(len, alone))
    together = decoder(tf.pad(source, [[0, 0], [0, 5]])).numpy()
    for row, expected in zip(together, alone, strict=True):
        # Up to where the shortest search was cut off; padding raises the limit.
        np.testing.assert_array_equal(row[:limit], expected[:limit])


def test_one_trace_serves_every_batch():
    decoder = Decoder(network(dtype="float32"), beam_width=2, extra_tokens=2)
    for rows, length in ((1, 4), (3, 6), (2, 8)):
        assert decoder(sentences()[:rows, :length]).shape[0] == rows
    assert decoder._translate.experimental_get_tracing_count() == 1


def test_nothing_follows_an_end_mark():
    tokens = beam_search(network(dtype="float32"), sentences(), LIMIT, 3, 0.6).numpy()
    for row in tokens:
        ends = np.flatnonzero(row == END)
        if len(ends):
            assert not row[ends[0] + 1 :].any()
    assert tokens.shape[1] <= LIMIT
