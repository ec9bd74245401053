"""What every task offers, and the task of a configuration."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path

import keras
import tensorflow as tf

from trainers import schema
from trainers.data import feed
from trainers.data.source import Source
from trainers.evaluation.evaluation import Evaluation


class Task(ABC):
    """What a network learns: its examples, how it is built, its loss and its evaluation.

    The sections of a task and what they must meet are in the schema, which knows no TensorFlow.
    """

    def __init__(self, config: schema.Config) -> None:
        self.config = config

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the examples come from; read at the first use.

        Raises:
            UserError: The data set is not on this machine, or doesn't have what is asked for.
        """

    @abstractmethod
    def build_model(self) -> keras.Model:
        """The network of the `model` section, with initial weights that follow from the seed.

        Raises:
            UserError: The network and the examples don't fit.
        """

    @abstractmethod
    def loss(self) -> keras.losses.Loss:
        """The loss of a micro-batch; the mean over an update's micro-batches is minimised."""

    @abstractmethod
    def evaluation(
        self, test: tf.data.Dataset, directory: Path, updates_per_epoch: int
    ) -> Evaluation:
        """The callback that evaluates on the test split.

        Args:
            test: The test split's micro-batches.
            directory: The run's directory.
            updates_per_epoch: Batches that the training loss is the mean of.
        """

    def feed(self, num_replicas: int = 1) -> feed.Feed:
        """The data sets of the run, for a number of replicas that share each micro-batch."""
        return feed.load(self.config, self.source, num_replicas)

    def broken_example_named(self) -> AbstractContextManager[None]:
        """Within this context, an error at a broken example names it."""
        return nullcontext()


def task_of(config: schema.Config) -> Task:
    """The task that the `data` section states."""
    return import_module(f"trainers.tasks.{config.data.task}").Task(config)
