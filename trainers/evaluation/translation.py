"""Evaluation by translation of the test split: BLEU and exact matches."""

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_aeos.callbacks import cut_back
from trainers import run_directory, schema
from trainers.data.sentences import TestPairs
from trainers.data.vocabulary import Vocabulary
from trainers.errors import UserError
from trainers.evaluation.decoding import Decoder
from trainers.evaluation.evaluation import Evaluation
from trainers.models.transformer import TokenCrossEntropy


class TranslationEvaluation(Evaluation):
    """Writes `evaluation.csv` and TensorBoard events, and the last translations.

    - ``test_loss``: mean cross-entropy of the test split's tokens given the reference before them,
      without label smoothing;
    - ``test_error``: fraction of these tokens that are not the most probable ones;
    - ``bleu``: BLEU of the translations, from 0 to 100;
    - ``exact_match``: fraction of the translations that equal the reference;
    - ``copied_source_bleu``: BLEU of the sources, as if nothing were translated.

    Args:
        test: Micro-batches ``((source, target), labels, weights)`` with weights of 1.
        directory: The run's directory.
        section: When and how to evaluate.
        updates_per_epoch: Batches that the training loss is the mean of.
        vocabulary: Turns tokens into text.
        pairs: The same sentences as text, in the same order.

    References:
        Post, "A call for clarity in reporting BLEU scores", 2018.
    """

    columns = (
        *run_directory.EVALUATION_COLUMNS,
        *("bleu", "exact_match", "copied_source_bleu"),
    )

    def __init__(
        self,
        test: tf.data.Dataset,
        directory: Path,
        section: schema.TranslationEvaluation,
        updates_per_epoch: int,
        vocabulary: Vocabulary,
        pairs: TestPairs,
    ) -> None:
        super().__init__(test, directory, section.freq, updates_per_epoch)
        self._translations = directory / run_directory.TRANSLATIONS
        self._section = section
        self._vocabulary = vocabulary
        self._pairs = pairs
        self._loss = TokenCrossEntropy()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Write the header and make the decoder."""
        super().on_train_begin(logs)
        section = self._section
        self._decoder = Decoder(
            self.model, section.beam_width, section.length_penalty, section.extra_tokens
        )

    def _evaluate(self) -> tuple[float, ...]:
        """Loss and error of the tokens, and the quality of the translations."""
        hypotheses: list[str] = []
        for (source, _), *_ in self._test:
            hypotheses += self._vocabulary.decode(self._decoder(source).numpy())
        sources, references = self._pairs.sources, self._pairs.references
        self._write_translations(hypotheses)
        matches = sum(a == b for a, b in zip(hypotheses, references, strict=True))
        return (
            *super()._evaluate(),
            bleu(hypotheses, references),
            matches / len(references),
            bleu(sources, references),
        )

    def _evaluate_batch(
        self, inputs: Any, targets: tf.Tensor, *weights: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        logits = self.model(inputs, training=False)
        wrong = tf.cast(tf.argmax(logits, -1, targets.dtype) != targets, tf.float32)
        [of_tokens] = weights
        loss = self._loss(targets, logits, sample_weight=of_tokens)
        return loss, tf.reduce_sum(of_tokens * wrong), tf.reduce_sum(of_tokens)

    def _write_translations(self, hypotheses: list[str]) -> None:
        columns = ("source", "reference", "translation")
        lines = zip(self._pairs.sources, self._pairs.references, hypotheses, strict=True)
        rows = [dict(zip(columns, line, strict=True)) for line in lines]
        try:
            cut_back.write_csv(self._translations, columns, rows)
        except OSError as error:
            print(
                f"warning: the translations could not be written: {error}. Training goes on",
                file=sys.stderr,
                flush=True,
            )


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """BLEU of a corpus, from 0 to 100, as sacrebleu computes it by default.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise UserError(
            "BLEU needs sacrebleu. Install it with: python -m pip install -e '.[translation]'"
        ) from error
    return sacrebleu.corpus_bleu(hypotheses, [references]).score
