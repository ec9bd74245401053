"""Subwords: learned once, kept, and learned again for another corpus."""

import numpy as np
import pytest

from tests.trainers.sentences import SENTENCES, config
from trainers import schema
from trainers.data import vocabulary
from trainers.data.sentences import Sentences
from trainers.data.vocabulary import END
from trainers.errors import UserError


@pytest.mark.parametrize("kind", schema.translation.VOCABULARIES)
def test_vocabulary_gives_sentences_back(tmp_path, kind):
    sentences = [sentence for pair in SENTENCES for sentence in pair]
    learned = vocabulary.learn(sentences, kind, 60, tmp_path)
    encoded = learned.encode(sentences).to_list()
    rows = np.zeros((len(encoded), 60), np.int32)
    for row, ids in zip(rows, encoded, strict=True):
        assert min(ids) > END
        row[: len(ids) + 1] = [*ids, END]
        row[len(ids) + 1 : -1] = 7  # what follows an end mark is not read
    assert learned.decode(rows) == sentences
    assert max(map(max, encoded)) < len(learned) <= 60


def test_a_small_corpus_has_a_small_vocabulary(tmp_path):
    assert 8 < len(vocabulary.learn(["a b", "b a"] * 9, "bpe", 500, tmp_path)) < 500
    with pytest.raises(UserError, match=r"vocabulary_size: .* no vocabulary of 8"):
        vocabulary.learn(["abcdefghijklmnopqrstuvwxyz"], "bpe", 8, tmp_path)


def test_vocabulary_is_learned_once_and_again_for_another_corpus(tmp_path, monkeypatch):
    import sentencepiece

    trained = []
    trainer = sentencepiece.SentencePieceTrainer
    train = trainer.train

    def counted(**settings):
        trained.append(settings)
        train(**settings)

    monkeypatch.setattr(trainer, "train", counted)
    sentences = ["ein hund läuft", "zwei hunde laufen"] * 5
    cases = [
        (sentences, "bpe", 40, 1),
        (sentences, "bpe", 40, 1),  # the same: from the file
        (sentences[1:], "bpe", 40, 2),
        (sentences, "bpe", 39, 3),
        (sentences, "unigram", 40, 4),
        (sentences, "bpe", 40, 4),
    ]
    for corpus, kind, size, expected in cases:
        vocabulary.learn(corpus, kind, size, tmp_path / "kept")
        assert len(trained) == expected
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_vocabulary_is_kept_beside_the_run(files):
    Sentences(config(files))
    assert [path.suffix for path in (files / "vocabularies").iterdir()] == [".model"]
