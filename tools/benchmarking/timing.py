"""Wall times of calls, and how often a call asks the device for a value."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

NUM_REPEATS = 7


def timed(function: Callable, *arguments: Any) -> tuple[float, Any]:
    """Call a function; return the seconds until the device is done, and its result."""
    tf.test.experimental.sync_devices()
    began = time.perf_counter()
    result = function(*arguments)
    tf.test.experimental.sync_devices()
    return time.perf_counter() - began, result


def seconds(call: Callable) -> float:
    """Wall time of a call."""
    return timed(call)[0]


def medians(calls: Mapping[str, Callable]) -> dict[str, float]:
    """Median wall time of each call, over interleaved repeats."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(NUM_REPEATS + 1):
        for name, call in calls.items():
            took = seconds(call)
            if repeat:  # the first call may trace
                times[name].append(took)
    return {name: statistics.median(values) for name, values in times.items()}


@dataclasses.dataclass
class Reads:
    """How often values of tensors were read.

    Attributes:
        number: Tensors whose value came to Python, each of which waits for the device.
    """

    number: int = 0


@contextlib.contextmanager
def host_reads() -> Iterator[Reads]:
    """Count the tensors whose values are read in Python within this context."""
    reads = Reads()
    read, asarray, array = ops._EagerTensorBase._numpy, np.asarray, np.array

    def counted_read(tensor: tf.Tensor) -> Any:
        reads.number += 1
        return read(tensor)

    def counted(function: Callable) -> Callable:
        # NumPy takes a tensor's buffer, and asks none of its methods.
        def call(*arguments: Any, **options: Any) -> Any:
            reads.number += isinstance(arguments[0], ops._EagerTensorBase)
            return function(*arguments, **options)

        return call

    ops._EagerTensorBase._numpy = counted_read
    np.asarray, np.array = counted(asarray), counted(array)
    try:
        yield reads
    finally:
        ops._EagerTensorBase._numpy = read
        np.asarray, np.array = asarray, array
