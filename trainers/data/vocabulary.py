"""Subwords of both languages: learned by SentencePiece, encoded by TensorFlow Text.

SentencePiece learns the byte pairs of 29,000 pairs of sentences in a second; WordPiece learning in
TensorFlow Text takes minutes and misses the requested size. SentencePiece's vocabularies reproduce
the text, spaces included, and TensorFlow Text reads them.
"""

import hashlib
import importlib
import importlib.metadata
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.errors import UserError

PADDING, UNKNOWN, BEGIN, END = range(4)
# Characters are learned until this fraction of the corpus is covered; rarer ones are unknown.
_COVERAGE = 0.9999
# Largest number of sentences to learn from; a larger corpus is sampled.
_MOST_SENTENCES = 2_000_000
_ENCODED_AT_ONCE = 1_000


class Vocabulary:
    """Subwords and their numbers: 0 padding, 1 unknown, 2 begin, 3 end, then the learned ones.

    Args:
        model: A SentencePiece model, as bytes.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._size = int(self._tokenizer().vocab_size())

    def __len__(self) -> int:
        """Actual number of subwords, at most the requested one."""
        return self._size

    def encode(self, sentences: Sequence[str]) -> tf.RaggedTensor:
        """Subwords of sentences, without begin and end marks: int32 (N, None)."""
        text = tf.data.Dataset.from_tensor_slices(list(sentences)).batch(_ENCODED_AT_ONCE)
        return tf.concat(list(text.map(self._tokenizer().tokenize, tf.data.AUTOTUNE)), 0)

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Sentences of rows of subwords, int32 (N, length), each up to its end mark."""
        ended = np.isin(tokens, (END, PADDING)).cumsum(axis=1) > 0
        rows = tf.ragged.boolean_mask(tokens, ~ended)
        return [sentence.decode() for sentence in self._tokenizer().detokenize(rows).numpy()]

    def _tokenizer(self) -> Any:
        """A new one for each use, because clearing Keras' session invalidates earlier ones."""
        return _library("tensorflow_text").SentencepieceTokenizer(self._model)


def learn(sentences: Sequence[str], kind: str, size: int, directory: Path) -> Vocabulary:
    """Learn the vocabulary of a corpus, or read it from `directory` if it was learned before.

    The file's name is a fingerprint of the corpus, the settings and the library's version.

    Args:
        sentences: Sentences of both languages.
        kind: "bpe" for byte pairs or "unigram".
        size: Largest number of subwords; a small corpus has fewer.
        directory: Where vocabularies are kept.

    Raises:
        UserError: `size` is below the number of characters, or a library is not installed.
    """
    sentencepiece = _library("sentencepiece")
    settings = {
        **{"model_type": kind, "vocab_size": size, "hard_vocab_limit": False},
        **{"character_coverage": _COVERAGE, "normalization_rule_name": "nmt_nfkc"},
        **{"pad_id": PADDING, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END},
        **{"input_sentence_size": _MOST_SENTENCES, "shuffle_input_sentence": True},
    }
    path = directory / f"{_fingerprint(sentences, settings)}.model"
    if not path.exists():
        model = io.BytesIO()
        print(
            f"learning a vocabulary of {size:,} subwords from {len(sentences):,} sentences",
            file=sys.stderr,
        )
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
                f"data.vocabulary_size: this corpus has no vocabulary of {size} subwords: "
                f"{' '.join(str(error).split())}"
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
    """Write a file completely or not at all, whatever other processes do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"translation needs {name}. Install it with: python -m pip install -e '.[translation]'"
        ) from error
