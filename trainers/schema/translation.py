"""The sections of a run that learns to translate: its sentences, evaluation and network."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from trainers.errors import UserError
from trainers.schema.conditions import PATH, Condition, at_least, fraction, one_of, setting
from trainers.schema.images import Data, Evaluation, Model

NORMS = ("pre", "post")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
VOCABULARIES = ("bpe", "unigram")
_NAMED = Condition("a name", lambda value: bool(value.strip()))
_RISING = Condition(
    "increasing whole numbers above 1",
    lambda sizes: sizes and sizes[0] > 1 and all(a < b for a, b in pairwise(sizes)),
)
_NOT_NEGATIVE = Condition("0 or more", lambda value: value >= 0)


@dataclass
class Translation(Data):
    """Pairs of sentences, from the language `source` to the language `target`.

    `name` is "numbers" for numbers in words, which need no download, "files" for the plain files
    SPLIT.LANGUAGE of `data_dir`, one sentence per line, or else the name of a prepared TFDS data
    set of translations. The training corpus is the first `num_examples` pairs of `train_split`, all
    of them when null. At most `vocabulary_size` subwords of both languages are learned from it.
    `vocabulary_dir` keeps the learned vocabularies; null means beside the run.

    The sentences of a micro-batch are padded to the next number of tokens in `buckets`, including
    the end mark. Training pairs with more tokens than the largest of them are left out.
    """

    task: ClassVar[str] = "translation"

    name: str = setting("numbers", _NAMED)
    source: str = setting("en", _NAMED)
    target: str = setting("de", _NAMED)
    train_split: str = setting("train", _NAMED)
    test_split: str = setting("test", _NAMED)
    vocabulary: str = one_of(VOCABULARIES, "bpe")
    vocabulary_size: int = at_least(8, 32_000)
    vocabulary_dir: str | None = setting(None, PATH)
    buckets: list[int] = field(
        default_factory=lambda: [16, 32, 48, 64, 96, 128], metadata={"condition": _RISING}
    )

    def check(self, config: Any) -> None:
        """Check what is known before the sentences are read and the long ones are left out."""
        if self.source == self.target:
            raise UserError(
                "data.source, data.target: expected two different languages. "
                f"Received: data.source={self.source}, data.target={self.target}"
            )
        if self.name == "files" and self.data_dir is None:
            raise UserError(
                f"data.data_dir: expected the directory of {self.train_split}.{self.source} and "
                f"{self.train_split}.{self.target}. Received: data.data_dir=null"
            )
        if self.batch_size is not None:
            self.check_divides("data.batch_size", self.batch_size)
        if config.monitor.num_examples is not None:
            self.check_divides("monitor.num_examples", config.monitor.num_examples)


@dataclass
class TranslationEvaluation(Evaluation):
    """Evaluation that translates the first `num_examples` test sentences, all of them when null.

    A `beam_width` of 1 decodes greedily. Beams of different lengths are compared by log-probability
    over ((5 + length) / 6) to the power of `length_penalty`. A translation ends after at most
    twice as many tokens as its batch's longest source, plus `extra_tokens`.
    """

    task: ClassVar[str] = "translation"

    num_examples: int | None = at_least(1, None)
    beam_width: int = at_least(1, 4)
    length_penalty: float = setting(0.6, _NOT_NEGATIVE)
    extra_tokens: int = at_least(1, 10)

    def check(self, config: Any) -> None:
        """Nothing to check: whether there is a test split shows when it is read."""


@dataclass
class Transformer(Model):
    """Encoder and decoder of `num_layers` layers each, of width `dim`.

    `norm` puts LayerNorm before ("pre") or after ("post") each sublayer; `hidden` is the inner
    width of the feed-forward sublayers. The loss of a token spreads the part
    `label_smoothing` of the probability evenly over all tokens. `precision` is a Keras policy for
    all layers.
    """

    task: ClassVar[str] = "translation"

    name: str = one_of(("transformer",), "transformer")
    norm: str = one_of(NORMS, "pre")
    num_layers: int = at_least(1, 6)
    dim: int = at_least(2, 512)
    heads: int = at_least(1, 8)
    hidden: int = at_least(1, 2_048)
    dropout: float = fraction(0.1)
    label_smoothing: float = fraction(0.1)
    precision: str = one_of(PRECISIONS, "float32")

    def check(self, config: Any) -> None:
        """Check the loss, and that the heads divide the width."""
        if config.loss != "cross_entropy":
            raise UserError(
                f"loss: expected cross_entropy for the transformer. Received: loss={config.loss}"
            )
        if self.dim % (2 * self.heads):
            raise UserError(
                "model.dim: expected a multiple of twice the number of heads, "
                f"{2 * self.heads}. Received: model.dim={self.dim}"
            )


# The sections of this task that a file chooses, by group and by the name under `schema/GROUP/`.
SECTIONS: dict[str, dict[str, type]] = {
    "model": {"transformer": Transformer},
    "data": {"translation": Translation},
    "evaluation": {"translation": TranslationEvaluation},
}
