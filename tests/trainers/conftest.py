"""Leaves TensorFlow as it was: a run makes its operations deterministic for the whole process."""

from collections.abc import Iterator

import pytest
from tensorflow.python.framework import config


@pytest.fixture(autouse=True)
def determinism_undone() -> Iterator[None]:
    yield
    config.disable_op_determinism()
