"""Sentences and their translations."""

from functools import cached_property
from pathlib import Path
from typing import cast

import keras
import tensorflow as tf

from trainers import schema
from trainers.data.sentences import Sentences
from trainers.evaluation.translation import TranslationEvaluation
from trainers.models import transformer
from trainers.tasks import base


class Task(base.Task):
    """Translation from one language to another."""

    @cached_property
    def source(self) -> Sentences:
        """Pairs of sentences and the vocabulary of both languages."""
        return Sentences(self.config)

    def build_model(self) -> keras.Model:
        """The Transformer for the vocabulary of the sentences."""
        return transformer.build_model(self.config, len(self.source.vocabulary))

    def loss(self) -> keras.losses.Loss:
        """The weighted sum over tokens of the cross-entropy of logits, with label smoothing."""
        model = cast(schema.Transformer, self.config.model)
        return transformer.TokenCrossEntropy(model.label_smoothing)

    def evaluation(
        self, test: tf.data.Dataset, directory: Path, updates_per_epoch: int
    ) -> TranslationEvaluation:
        """Loss and error of the tokens of the test split, and the quality of its translations."""
        return TranslationEvaluation(
            test,
            directory,
            cast(schema.TranslationEvaluation, self.config.evaluation),
            updates_per_epoch,
            self.source.vocabulary,
            self.source.test_pairs,
        )
