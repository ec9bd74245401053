"""Benchmarks in order of importance, within a time budget, each result kept at once."""

import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tools.benchmarking.store import Store
from tools.benchmarking.worker import Worker

# Share of the time budget that one case may take, and what it is given at least, in seconds.
_LARGEST_SHARE, _LEAST = 0.3, 60.0


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        measure: Function that takes the name of a case and returns its numbers by name.
        cases: Function that returns the names of the cases to measure on this device.
        draw: Function from a stored file to its tables, as Markdown.
        alone: Whether it is measured only if it is named, because it takes an hour.
    """

    measure: Callable[[str], dict[str, Any]]
    cases: Callable[[], Sequence[str]]
    draw: Callable[[dict[str, Any]], str]
    alone: bool = False


Job = tuple[str, str]  # the names of a benchmark and of one of its cases


def pending(
    benchmarks: Mapping[str, Benchmark], stores: Mapping[str, Store], cases: Iterable[str] = ()
) -> list[Job]:
    """The jobs without results of the present source, in order of importance.

    Args:
        benchmarks: Benchmarks by name, the most important first.
        stores: Where their results are.
        cases: Names of cases in place of those that are usual on this device.
    """
    return [
        (name, case)
        for name, benchmark in benchmarks.items()
        if not benchmark.alone
        for done in [stores[name].finished()]
        for case in cases or benchmark.cases()
        if case not in done
    ]


def run(
    jobs: Iterable[Job],
    benchmarks: Mapping[str, Benchmark],
    stores: Mapping[str, Store],
    minutes: float | None = None,
    worker: Worker | None = None,
) -> list[Job]:
    """Measure jobs one after the other, in a process that may fail.

    An error, the end of the process or a time above 30% of the budget is kept as the outcome of
    the case, and the next one is measured.

    Args:
        jobs: What to measure, in this order.
        benchmarks: Benchmarks by name.
        stores: Where the outcomes go.
        minutes: Time budget; None for no limit.
        worker: The process; None for a new one.

    Returns:
        The jobs that there was no time for.
    """
    remaining = list(jobs)
    end = None if minutes is None else time.monotonic() + 60.0 * minutes
    worker = worker or Worker()
    try:
        while remaining:
            name, case = remaining[0]
            began, limit = time.monotonic(), None
            if end is not None and minutes is not None:
                limit = min(end - began, max(60.0 * minutes * _LARGEST_SHARE, _LEAST))
                if limit <= 0.0:
                    break
            print(f"{name}, {case}: ", end="", flush=True)
            outcome = worker.ask(measured, benchmarks[name].measure, case, limit=limit)
            took = time.monotonic() - began
            if "error" in outcome and end is not None and began + took >= end:
                print("no time left")
                break
            print(outcome.get("error", "measured"), f"({took:.0f} s)", flush=True)
            stores[name].keep(case, took, **outcome)
            del remaining[0]
    finally:
        worker.stop()
    return remaining


def measured(measure: Callable[[str], dict[str, Any]], case: str) -> dict[str, Any]:
    """Measure a case in a process that may have measured others."""
    prepare_device()
    try:
        return measure(case)
    finally:
        keras.backend.clear_session()
        gc.collect()


def prepare_device() -> None:
    """Multiply in full float32, and leave memory to the other processes on a GPU."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
