"""Whether an objective's products are compiled by XLA: if that is exact, faster, and pays."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.device_memory import is_host
from keras_aeos.curvature.partial_evaluation import PartialEvaluation

# Products of a row with one solve, the share of their time that compiling saves at best, and the
# seconds that compiling an operation takes (`python tools/benchmark.py xla`): what decides when it
# is tried.
_PRODUCTS_PER_ROW = 10
_SAVED = 0.4
_SECONDS_PER_OPERATION = 0.02
# Linearisations before a product is timed; then whenever their number has doubled.
_FIRST_TIMED = 4
_NUM_TIMED = 3
# Relative difference of two products, in units of the machine's precision, that is rounding.
_ROUNDING = 100.0


class CompilationTrial:
    """Decides once for an objective, by a measurement, whether its products are compiled.

    Nobody knows how many products will follow. Compiling is tried when the products so far would
    have saved, compiled, as much time as it is expected to take: so it never costs more than about
    twice what the wiser choice would. It is kept if the products are equal to rounding and faster.

    On a CPU it is never tried: most compiled products are slower there
    (`python tools/benchmark.py xla`), and a choice by time would make the rows of equal trainings
    differ in rounding. Max pooling is left out, because XLA's second derivative of it is wrong.

    Args:
        parts: The `PartialEvaluation` whose `compiled` is set.
    """

    def __init__(self, parts: PartialEvaluation) -> None:
        self._parts = parts
        self._num_linearisations = 0
        self._next = _FIRST_TIMED
        self._decided = False

    def consider(self, vector: tf.Tensor, kept: Sequence[Sequence[tf.Tensor]]) -> bool:
        """Take note of a linearisation, and try to compile its products if it is time.

        Args:
            vector: A vector to multiply.
            kept: The values of each micro-batch.

        Returns:
            Whether the products are compiled from now on, and were not before.
        """
        if self._decided or not kept:
            return False
        parts = self._parts
        if is_host(vector.device) or not parts.compilable:
            self._decided = True
            return False
        self._num_linearisations += 1
        if self._num_linearisations < self._next:
            return False
        self._next *= 2
        expected, plain = _timed(lambda: parts.second(vector, kept[0]))
        spent = self._num_linearisations * _PRODUCTS_PER_ROW * len(kept) * plain
        if _SAVED * spent < _SECONDS_PER_OPERATION * parts.num_operations:
            return False
        self._decided = True
        parts.compiled = True
        try:
            product, compiled = _timed(lambda: parts.second(vector, kept[0]))
        except tf.errors.OpError:  # an operation that XLA doesn't know, or no memory for it
            parts.compiled = False
            return False
        rounding = _ROUNDING * np.finfo(vector.dtype.as_numpy_dtype).eps
        error = float(tf.norm(product - expected))
        parts.compiled = compiled < plain and error <= rounding * float(tf.norm(expected))
        return parts.compiled


def _timed(call: Callable[[], tf.Tensor]) -> tuple[tf.Tensor, float]:
    """The result of a call, and the shortest of some wall times; the first call may compile."""
    times = []
    for _ in range(1 + _NUM_TIMED):
        began = time.perf_counter()
        result = call()
        float(tf.norm(result))  # waits for the device
        times.append(time.perf_counter() - began)
    return result, min(times[1:])
