"""The devices that a run trains on, as a strategy of TensorFlow."""

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from trainers.errors import UserError


def strategy(name: str) -> tf.distribute.Strategy:
    """The strategy that a configuration names.

    - ``none``: one device.
    - ``mirrored``: all GPUs of this machine, or all of its logical CPU devices if it has none.
    - ``multi_worker``: the processes that the environment variable ``TF_CONFIG`` lists, this one
      among them. It must be asked for before anything else of TensorFlow.

    Raises:
        UserError: ``TF_CONFIG`` is missing or describes no cluster.
    """
    if name == "mirrored":
        return _mirrored()
    return _multi_worker() if name == "multi_worker" else tf.distribute.get_strategy()


@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    """One for all runs of a process: TensorFlow numbers its sums, and would mix up those of two."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    """A process can make one only."""
    given = os.environ.get("TF_CONFIG", "")
    expected = (
        "strategy: for multi_worker, expected the environment variable TF_CONFIG, with the "
        "addresses of all processes and the number of this one (docs/trainers.md). "
        f"Received: TF_CONFIG={given}"
    )
    if not given:
        raise UserError(expected)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{expected}: {error}") from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files of a run; one of several processes does."""
    return strategy.extended.should_save_summary


@contextmanager
def own_directory(strategy: tf.distribute.Strategy, directory: Path) -> Iterator[Path]:
    """Where this process writes: the directory of the run, or a temporary one if it isn't chief."""
    if is_chief(strategy):
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / directory.name
