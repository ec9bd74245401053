"""Images and their classes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from importlib import import_module
from pathlib import Path

import keras
import tensorflow as tf

from trainers import schema
from trainers.data import imagenet, images, tfds
from trainers.data.source import Source
from trainers.errors import UserError
from trainers.evaluation.evaluation import Evaluation
from trainers.tasks import base

# Of the data sets that are not held in memory.
_SOURCES: dict[str, Callable[[schema.Config], Source]] = {"imagenet2012": imagenet.ImageNet}


class Task(base.Task):
    """Classification of images."""

    @cached_property
    def source(self) -> Source:
        """The images, in memory or read while the model trains."""
        return _SOURCES.get(self.config.data.name, images.ImagesInMemory)(self.config)

    def build_model(self) -> keras.Model:
        """The network for the images and classes of the data set."""
        module = import_module(f"trainers.models.{self.config.model.name}")
        try:
            return module.build_model(self.config)
        except ValueError as error:
            name = self.config.data.name
            raise UserError(
                "model: the network can't be built for the images of "
                f"{name}, {schema.DATASETS[name].input_shape}: {' '.join(str(error).split())}"
            ) from error

    def loss(self) -> keras.losses.Loss:
        """The cross-entropy of logits, or the squared error, a mean over examples and outputs."""
        if self.config.loss == "cross_entropy":
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.MeanSquaredError()

    def evaluation(
        self, test: tf.data.Dataset, directory: Path, updates_per_epoch: int
    ) -> Evaluation:
        """Loss and error on the test split."""
        return Evaluation(test, directory, self.config.evaluation.freq, updates_per_epoch)

    def broken_example_named(self) -> AbstractContextManager[None]:
        """Within this context, an error at a broken image names it."""
        return tfds.broken_image_named(self.config.data)
