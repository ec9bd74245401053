"""Pairs of sentences as micro-batches of subwords.

A batch of sentences is sorted by length and cut into micro-batches of equally many sentences, each
padded to the next of a few lengths. Batches stay as random as without buckets, contain little
padding and have few shapes.

Every target token of a batch counts the same. With T real target tokens in a batch of K
micro-batches, the weight of a token is K/T, the weight of padding is 0, and the loss of a
micro-batch is the weighted sum. The mean of the K losses, which accumulation applies and the
monitor measures, is then the mean over the T tokens, however they are spread.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import tensorflow as tf

from trainers import schema
from trainers.data import parallel_text
from trainers.data.share import ALL, Share
from trainers.data.vocabulary import BEGIN, END, PADDING, learn
from trainers.errors import UserError

VOCABULARIES = "vocabularies"


@dataclass(frozen=True)
class TestPairs:
    """The sentences of the test split as text."""

    __test__ = False  # not a case for pytest

    sources: list[str]
    references: list[str]


class Sentences:
    """A `Source` of micro-batches ``((source, target), labels, weights)``.

    `source` is int32 (N, S): subwords and an end mark. `target` and `labels` are int32 (N, L): the
    subwords of the translation after a begin mark, and before an end mark. `weights` is float32
    (N, L). S and L differ from one micro-batch to the next.

    Attributes:
        vocabulary: Subwords of both languages.
        num_examples: Number of training pairs, without those that are too long and the last ones
            that fill no micro-batch.
    """

    def __init__(self, config: schema.Config) -> None:
        self._config = config
        self._section = section = cast(schema.Translation, config.data)
        corpus = parallel_text.read(section, section.train_split, section.num_examples)
        if section.num_examples is not None and len(corpus) < section.num_examples:
            raise UserError(
                f"data.num_examples: expected at most {len(corpus)}, the number of pairs in the "
                f"split '{section.train_split}' of {section.name}. "
                f"Received: data.num_examples={section.num_examples}"
            )
        self.vocabulary = learn(
            [sentence for pair in corpus for sentence in pair],
            section.vocabulary,
            section.vocabulary_size,
            Path(section.vocabulary_dir or Path(config.output_dir).parent / VOCABULARIES),
        )
        self._boundaries = tf.constant(section.buckets)
        sides = self._encode(corpus)
        longest = np.max([side.row_lengths() for side in sides], axis=0)
        [kept] = np.nonzero(longest < section.buckets[-1])
        self.num_examples = self._count(len(kept), len(corpus))
        self._pairs = _Pairs(*(tf.gather(side, kept[: self.num_examples]) for side in sides))

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """The first `num_examples`, sorted by length, in micro-batches of `size`."""
        rows = np.argsort(self._pairs.lengths[:num_examples], kind="stable").reshape(-1, size)
        scale = len(rows) / self._pairs.num_labels[:num_examples].sum()
        return self._batches(tf.data.Dataset.from_tensor_slices(rows), np.float32(scale))

    def full_batch(self, size: int) -> None:
        """None: the micro-batches are made while the model trains."""

    def shuffled(self, batch: int, size: int, share: Share = ALL) -> tf.data.Dataset:
        """Endless random batches, each sorted by length and cut into micro-batches of `size`."""
        lengths = tf.constant(self._pairs.lengths)
        num_labels = tf.constant(self._pairs.num_labels)

        def cut(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_length = tf.gather(rows, tf.argsort(tf.gather(lengths, rows), stable=True))
            num_tokens = tf.reduce_sum(tf.gather(num_labels, rows))
            scale = tf.cast(batch // size, tf.float32) / tf.cast(num_tokens, tf.float32)
            pieces = share.pieces(by_length, size)
            return pieces, tf.fill([tf.shape(pieces)[0]], scale)

        rows = tf.data.Dataset.range(self.num_examples)
        rows = rows.shuffle(self.num_examples, seed=self._config.seed)
        rows = rows.batch(batch, drop_remainder=True).repeat().skip(share.initial_update)
        rows = rows.map(cut).unbatch()
        return rows.map(self._pairs.micro_batch(self._boundaries), tf.data.AUTOTUNE).prefetch(4)

    @cached_property
    def test_pairs(self) -> TestPairs:
        """The sentences of the test split as text, sorted by length."""
        evaluation = cast(schema.TranslationEvaluation, self._config.evaluation)
        text = parallel_text.read(self._section, self._section.test_split, evaluation.num_examples)
        order = np.argsort(_Pairs(*self._encode(text)).lengths, kind="stable")
        return TestPairs(*(list(side) for side in zip(*(text[row] for row in order), strict=True)))

    def test(self, size: int) -> tf.data.Dataset:
        """The test split, in the order of `test_pairs`, in micro-batches with weights of 1."""
        text = self.test_pairs
        pairs = _Pairs(*self._encode(list(zip(text.sources, text.references, strict=True))))
        rows = tf.data.Dataset.range(len(text.sources)).batch(size)
        return rows.map(lambda row: pairs.micro_batch(self._boundaries)(row, 1.0)).cache()

    def _batches(self, rows: tf.data.Dataset, scale: np.float32) -> tf.data.Dataset:
        micro_batch = self._pairs.micro_batch(self._boundaries)
        return rows.map(lambda row: micro_batch(row, scale), tf.data.AUTOTUNE).cache()

    def _encode(self, pairs: Sequence[parallel_text.Pair]) -> list[tf.RaggedTensor]:
        """Sources and targets."""
        return [self.vocabulary.encode(side) for side in zip(*pairs, strict=True)]

    def _count(self, num_kept: int, num_read: int) -> int:
        """The number of training pairs to use, given how many are not too long."""
        size = min(self._section.micro_batch_size, max(num_kept, 1))
        batch = self._section.batch_size or size
        measured = self._config.monitor.num_examples or size
        if num_kept < max(batch, measured):
            raise UserError(
                f"{num_kept} of {num_read} pairs have fewer than {self._section.buckets[-1]} "
                "tokens, the largest of data.buckets. Expected at least data.batch_size and "
                f"monitor.num_examples. Received: data.batch_size={self._section.batch_size}, "
                f"monitor.num_examples={self._config.monitor.num_examples}"
            )
        if num_kept < num_read:
            print(
                f"{num_read - num_kept:,} of {num_read:,} pairs left out: longer than "
                f"{self._section.buckets[-1]} tokens, the largest of data.buckets",
                file=sys.stderr,
            )
        return num_kept // size * size


class _Pairs:
    """Pairs of sentences: subwords of the sources and of the targets, int32 (N, None) each."""

    def __init__(self, sources: tf.RaggedTensor, targets: tf.RaggedTensor) -> None:
        self._sources, self._targets = sources, targets
        # With the end mark.
        self.num_labels = targets.row_lengths().numpy() + 1
        self.lengths = self.num_labels + sources.row_lengths().numpy() + 1

    def micro_batch(self, boundaries: tf.Tensor) -> Callable[[tf.Tensor, tf.Tensor | float], tuple]:
        """The function that makes a micro-batch of rows, padded to the next of `boundaries`."""

        def gather(rows: tf.Tensor, weight: tf.Tensor | float) -> tuple:
            size = rows.shape[0] or tf.shape(rows)[0]
            mark = tf.ones([size, 1], tf.int32)
            sources, targets = tf.gather(self._sources, rows), tf.gather(self._targets, rows)
            source = _padded(tf.concat([sources, END * mark], 1), boundaries)
            labels = _padded(tf.concat([targets, END * mark], 1), boundaries)
            target = _padded(tf.concat([BEGIN * mark, targets], 1), boundaries)
            return (source, target), labels, tf.cast(labels != PADDING, tf.float32) * weight

        return gather


def _padded(rows: tf.RaggedTensor, boundaries: tf.Tensor) -> tf.Tensor:
    """Dense rows, padded to the smallest of `boundaries` that holds them, if any does."""
    dense = rows.to_tensor(PADDING)
    length = tf.shape(dense)[1]
    place = tf.searchsorted(boundaries, [length])[0]
    room = tf.cond(
        place < tf.size(boundaries), lambda: tf.gather(boundaries, place), lambda: length
    )
    padded = tf.pad(dense, [[0, 0], [0, room - length]], constant_values=PADDING)
    padded.set_shape([rows.shape[0], None])
    return padded
