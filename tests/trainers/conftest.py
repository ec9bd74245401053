"""Data sets of the trainers' tests, and TensorFlow left as it was.

A run makes TensorFlow's operations deterministic for the whole process.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorflow.python.framework import config

from tests.trainers.prepared import write_cifar
from tests.trainers.sentences import SENTENCES, write_files


@pytest.fixture(autouse=True)
def determinism_undone() -> Iterator[None]:
    yield
    config.disable_op_determinism()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TFDS directory with CIFAR-10 in it: the real one if the environment names it."""
    if "TFDS_DATA_DIR" in os.environ:
        return os.environ["TFDS_DATA_DIR"]
    return write_cifar(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with the corpus as plain files, and two of its pairs as the test split."""
    return write_files(write_files(tmp_path), "test", SENTENCES[2:4])
