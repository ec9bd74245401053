"""The sections of a run that learns to translate: its sentences and how it is evaluated."""

from dataclasses import dataclass, field
from itertools import pairwise

from trainers.schema.conditions import Condition, at_least, one_of, setting
from trainers.schema.runs import Data, Evaluation

VOCABULARIES = ("bpe", "unigram")
_NAMED = Condition("a name", lambda value: bool(value.strip()))
_RISING = Condition(
    "rising whole numbers above 1",
    lambda sizes: sizes and sizes[0] > 1 and all(a < b for a, b in pairwise(sizes)),
)
_NOT_NEGATIVE = Condition("0 or more", lambda value: value >= 0)


@dataclass
class Translation(Data):
    """Pairs of sentences, from the language `source` to the language `target`.

    `name` is "numbers" for numbers in words, which need no download, "files" for the plain files
    SPLIT.LANGUAGE of `data_dir`, one sentence a line, or else the name of a prepared TFDS data set
    of translations. The first `num_examples` pairs of `train_split` are the training corpus, all
    of it when null, and what `vocabulary_size` subwords of both languages are learned from, at
    most so many. `vocabulary_dir` keeps the learned vocabularies; null means beside the run.

    A sentence of a micro-batch is padded to the next number of tokens in `buckets`, its end mark
    included. Training pairs with more tokens than the last of them are left out.
    """

    name: str = setting("numbers", _NAMED)
    source: str = setting("en", _NAMED)
    target: str = setting("de", _NAMED)
    train_split: str = setting("train", _NAMED)
    test_split: str = setting("test", _NAMED)
    vocabulary: str = one_of(VOCABULARIES, "bpe")
    vocabulary_size: int = at_least(8, 32_000)
    vocabulary_dir: str | None = None
    buckets: list[int] = field(
        default_factory=lambda: [16, 32, 48, 64, 96, 128], metadata={"condition": _RISING}
    )


@dataclass
class TranslationEvaluation(Evaluation):
    """Evaluation that translates the first `num_examples` test sentences, all of them when null.

    A `beam_width` of 1 decodes greedily. Beams of different lengths are compared by log-probability
    over ((5 + length) / 6) to the power of `length_penalty`. A translation ends after at most
    twice as many tokens as its batch's longest source, and `extra_tokens`.
    """

    num_examples: int | None = at_least(1, None)
    beam_width: int = at_least(1, 4)
    length_penalty: float = setting(0.6, _NOT_NEGATIVE)
    extra_tokens: int = at_least(1, 10)


# The sections of each of these groups other than its base, by the name under `schema/GROUP/`.
SECTIONS: dict[str, dict[str, type]] = {
    "data": {"translation": Translation},
    "evaluation": {"translation": TranslationEvaluation},
}
