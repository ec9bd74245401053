"""Benchmarks in a time budget, and the process that they fail in."""

import math
import os
import time
from typing import Any

import pytest

from tools.benchmarking import plan
from tools.benchmarking.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.stop()


def test_a_process_that_fails_is_followed_by_another(worker):
    assert worker.ask(math.sqrt, 4.0) == {"results": 2.0}
    assert worker.ask(math.sqrt, -1.0)["error"].startswith("ValueError")
    process = worker.ask(os.getpid)
    assert worker.ask(os._exit, 3) == {"error": "the process ended with status 3"}
    assert worker.ask(time.sleep, 60.0, limit=0.1) == {"error": "stopped after 0 s"}
    another = worker.ask(os.getpid)
    assert another["results"] not in {process["results"], os.getpid()}


class Kept:
    """A store in memory, in which one case is finished."""

    def __init__(self):
        self.outcomes = {}

    def finished(self):
        return {"done"}

    def keep(self, case, seconds, **outcome):
        self.outcomes[case] = outcome


class Slow:
    """A worker that takes 40 seconds of a clock for each case, and fails at one of them."""

    def __init__(self, monkeypatch):
        self.now, self.limits = 0.0, []
        monkeypatch.setattr(plan.time, "monotonic", lambda: self.now)

    def ask(self, function, measure, case, limit):
        self.limits.append(limit)
        took = 40.0 if limit is None else min(40.0, limit)
        self.now += took
        return {"error": "no"} if case == "fails" or took < 40.0 else {"results": {}}

    def stop(self):
        """Nothing to stop."""


def test_what_the_budget_has_no_time_for_is_left(monkeypatch):
    cases = ["a", "done", "fails", "c", "d"]
    benchmarks: Any = {"b": plan.Benchmark(lambda case: {}, lambda: cases, str)}
    stores: Any = {"b": Kept()}
    jobs = plan.pending(benchmarks, stores)
    assert jobs == [("b", "a"), ("b", "fails"), ("b", "c"), ("b", "d")]

    slow: Any = Slow(monkeypatch)
    left = plan.run(jobs, benchmarks, stores, minutes=100.0 / 60.0, worker=slow)
    assert slow.limits == [60.0, 60.0, 20.0]  # at least a minute, and no longer than there is
    assert left == [("b", "c"), ("b", "d")]
    assert stores["b"].outcomes == {"a": {"results": {}}, "fails": {"error": "no"}}

    endless: Any = Slow(monkeypatch)
    left = plan.run(left, benchmarks, stores, worker=endless)
    assert not left
    assert stores["b"].outcomes["d"] == {"results": {}}
