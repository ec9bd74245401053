"""Wall times of calls."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

NUM_REPEATS = 7


def timed(function: Callable, *arguments: Any) -> tuple[float, Any]:
    """Call a function; return the seconds it took and its result."""
    began = time.perf_counter()
    result = function(*arguments)
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
