"""Subwords of both languages, learned once from the training corpus by SentencePiece.

The library learns byte pairs of 29,000 pairs of sentences in a second and encodes them in another,
in C++, where TensorFlow Text's trainer of word pieces takes minutes; and it has wheels for every
platform and any version of TensorFlow. Its vocabularies give back the text, spaces included.
"""

import hashlib
import importlib.metadata
import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers.errors import UserError

PADDING, UNKNOWN, BEGIN, END = range(4)
# A rare character beyond this part of the corpus is unknown.
_COVERAGE = 0.9999
# Sentences that are looked at; a larger corpus is sampled.
_MOST_SENTENCES = 2_000_000


class Vocabulary:
    """Subwords and their numbers: 0 padding, 1 unknown, 2 begin, 3 end, then the learned ones.

    Args:
        model: A SentencePiece model, as bytes.
    """

    def __init__(self, model: bytes) -> None:
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    def __len__(self) -> int:
        """Number of subwords that there are, whatever the size that was asked for."""
        return len(self._processor)

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Subwords of sentences, without begin and end: an int32 array each."""
        return [np.asarray(ids, np.int32) for ids in self._processor.encode(list(sentences))]

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Sentences of rows of subwords, int (N, length), each up to its end mark."""
        rows = []
        for row in np.asarray(tokens):
            ends = np.flatnonzero((row == END) | (row == PADDING))
            rows.append([int(token) for token in row[: ends[0] if len(ends) else None]])
        return self._processor.decode(rows)


def learn(sentences: Sequence[str], kind: str, size: int, directory: Path) -> Vocabulary:
    """Learn the vocabulary of a corpus, or take it from `directory` if it was learned before.

    The file's name is a fingerprint of the corpus, the settings and the library's version.

    Args:
        sentences: Those of both languages.
        kind: "bpe" for byte pairs or "unigram".
        size: Largest number of subwords; a small corpus has fewer.
        directory: Where vocabularies are kept.

    Raises:
        UserError: `size` is below the number of characters, or SentencePiece is not installed.
    """
    sentencepiece = _sentencepiece()
    settings = {
        **{"model_type": kind, "vocab_size": size, "hard_vocab_limit": False},
        **{"character_coverage": _COVERAGE, "normalization_rule_name": "nmt_nfkc"},
        **{"pad_id": PADDING, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END},
        **{"input_sentence_size": _MOST_SENTENCES, "shuffle_input_sentence": True},
    }
    path = directory / f"{_fingerprint(sentences, settings)}.model"
    if not path.exists():
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                minloglevel=2,
                num_threads=os.cpu_count() or 1,
                **settings,
            )
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"data.vocabulary_size: no vocabulary of {size} subwords can be learned from this "
                f"corpus: {' '.join(str(error).split())}"
            ) from error
        _write(path, model.getvalue())
    return Vocabulary(path.read_bytes())


def _fingerprint(sentences: Iterable[str], settings: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    version = importlib.metadata.version("sentencepiece")
    for part in (version, repr(sorted(settings.items())), *sentences):
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whatever other runs of a sweep do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            "translation needs SentencePiece: python -m pip install -e '.[translation]'"
        ) from error
    return sentencepiece
