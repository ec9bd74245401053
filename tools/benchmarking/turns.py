"""The process of one framework in a comparison.

It loads no other framework: Triton, which PyTorch compiles with, crashes beside TensorFlow.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from tools.benchmarking import contenders
from tools.benchmarking.contenders import Framework, Task
from tools.benchmarking.worker import described

# Calls of a product in a turn, of which the median counts.
_NUM_PRODUCTS = 5
# What the process of a framework holds: one framework, and what has failed in it.
_held: dict[str, Any] = {}


def begin(name: str, task: Task) -> dict[str, Any]:
    """Import a framework in this process, and call everything once."""
    missing = contenders.unavailable(contenders.PACKAGES[name])
    framework = contenders.start(name, task, set(missing))
    loss = framework.loss()
    framework.gradient()
    failed: dict[str, str] = dict(missing)
    first: dict[str, float] = {}
    certificates = {}
    calls = {
        f"{contender.name}, {contender.setting}": lambda c=contender: c.solve(0)
        for contender in framework.contenders
    }
    for label, call in {**framework.products, **calls}.items():
        try:
            first[label] = _clock(call)[0]
        except Exception as error:  # a peer's, of whatever kind
            failed[label] = described(error)
    for contender in framework.contenders:
        certificates[contender.name, contender.setting] = contender.certificate
    _held.update(framework=framework, failed=set(failed))
    return {
        "loss": loss,
        "device": framework.device,
        "first": first,
        "certificates": certificates,
        "failed": failed,
        "gradients": [],
        "solves": {},
        "products": {},
    }


def turn(repeat: int) -> dict[str, Any]:
    """Time gradients, products and one solve of each contender."""
    framework: Framework = _held["framework"]
    failed: dict[str, str] = {}
    gradients = [_clock(framework.gradient)[0]]
    solves, products = {}, {}
    for contender in framework.contenders:
        label = f"{contender.name}, {contender.setting}"
        if label in _held["failed"]:
            continue
        try:
            took, (value, count) = _clock(contender.solve, repeat)
        except Exception as error:  # a peer's, of whatever kind
            failed[label] = described(error)
            _held["failed"].add(label)
        else:
            solves[contender.name, contender.setting] = (took, float(value), int(count))
    for label, call in framework.products.items():
        if label not in _held["failed"]:
            products[label] = statistics.median(_clock(call)[0] for _ in range(_NUM_PRODUCTS))
        gradients.append(_clock(framework.gradient)[0])
    return {"gradients": gradients, "solves": solves, "products": products, "failed": failed}


def _clock(call: Callable, *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - began, result
