"""The comparison of solvers on one network: their errors, products and times."""

import contextlib
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from tools.benchmarking import contenders, problems, turns
from tools.benchmarking.contenders import FRAMEWORKS, Task
from tools.benchmarking.tables import filled, markdown
from tools.benchmarking.worker import described

SOLVER_FORMATS = {
    "solver": "{}",
    "setting": "{}",
    "error": "{:.1e}",
    "products": "{:g}",
    "gradients": "{:.1f}",
    "time": "{:.2f}",
    "first call, s": "{:.1f}",
    "certificate": "{}",
}
PRODUCT_FORMATS = {
    "product": "{}",
    "ms": "{:.1f}",
    "gradients of the framework": "{:.2f}",
    "gradients of the fastest": "{:.2f}",
    "first call, s": "{:.1f}",
}


def compare(name: str) -> dict[str, Any]:
    """Measure all contenders on one network, each framework in a process of its own.

    The processes take turns, so that a change of the machine's speed meets all of them alike.
    """
    problem = problems.prepare(name)
    exact, residual, matrices = problems.refer(problem)
    task = Task(name, problem.weights, problem.x, problem.y, problem.starts, matrices, exact)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    spawn = multiprocessing.get_context("spawn")
    initializer = None if on_gpu else contenders.stay_on_one_core
    with contextlib.ExitStack() as stack:
        pools = {
            framework: stack.enter_context(ProcessPoolExecutor(1, spawn, initializer=initializer))
            for framework in FRAMEWORKS
        }
        answers, failed = _turns(pools, task)
    unit = {name: statistics.median(answer["gradients"]) for name, answer in answers.items()}
    losses = {name: answer["loss"] for name, answer in answers.items()}
    if disagreement(losses):
        raise ValueError(disagreement(losses))
    spectrum = np.linalg.eigvalsh(matrices[0])
    return {
        "parameters": problem.model.count_params(),
        "examples": len(problem.x),
        "λ₁": exact,
        "residual of λ₁": residual,
        "λ₂": float(spectrum[-2]),
        "smallest": float(spectrum[0]),
        "threads": "all of the GPU's host" if on_gpu else "1",
        "gradient, ms": {name: 1e3 * took for name, took in unit.items()},
        "device": {name: answer["device"] for name, answer in answers.items()},
        "solvers": _solver_rows(answers, unit, exact),
        "products": _product_rows(answers, unit),
        "left out": failed | {k: v for a in answers.values() for k, v in a["failed"].items()},
    }


def _turns(
    pools: dict[str, ProcessPoolExecutor], task: Task
) -> tuple[dict[str, Any], dict[str, str]]:
    """Let the frameworks measure in turns.

    Returns:
        What each framework measured, and why others did not.
    """
    answers: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def ask(framework: str, function: Callable, *arguments: Any) -> Any:
        try:
            return pools[framework].submit(function, *arguments).result()
        except Exception as error:  # a framework's, of whatever kind, up to the end of its process
            failed[framework] = described(error)
            answers.pop(framework, None)
            return None

    for framework in pools:
        begun = ask(framework, turns.begin, framework, task)
        if begun is not None:
            answers[framework] = begun
    for repeat in range(len(task.starts)):
        for framework in list(answers):
            measured = ask(framework, turns.turn, repeat)
            if measured is None:
                continue
            answer = answers[framework]
            answer["gradients"] += measured["gradients"]
            answer["failed"] |= measured["failed"]
            for kind in ("solves", "products"):
                for key, value in measured[kind].items():
                    answer[kind].setdefault(key, []).append(value)
    return answers, failed


def _solver_rows(
    answers: dict[str, Any], unit: dict[str, float], exact: float
) -> list[dict[str, Any]]:
    """A row of numbers for each contender that solved for every start."""
    ours = statistics.median(
        t for t, _, _ in answers["TensorFlow"]["solves"]["keras_aeos", "default"]
    )
    rows = []
    for framework, answer in answers.items():
        for (name, setting), solves in answer["solves"].items():
            label = f"{name}, {setting}"
            if label in answer["failed"]:
                continue
            times, values, counts = zip(*solves, strict=True)
            median = statistics.median(times)
            rows.append(
                {
                    "solver": name,
                    "setting": setting,
                    "error": max(abs(value / exact - 1.0) for value in values),
                    "products": statistics.median(counts),
                    "seconds": median,
                    "gradients": median / unit[framework],
                    "time": median / ours,
                    "first call, s": max(answer["first"][label] - median, 0.0),
                    "certificate": answer["certificates"][name, setting],
                }
            )
    return rows


def _product_rows(answers: dict[str, Any], unit: dict[str, float]) -> list[dict[str, Any]]:
    fastest = min(unit.values())
    rows = []
    for framework, answer in answers.items():
        for label, times in answer["products"].items():
            median = statistics.median(times)
            rows.append(
                {
                    "product": label,
                    "ms": 1e3 * median,
                    "gradients of the framework": median / unit[framework],
                    "gradients of the fastest": median / fastest,
                    "first call, s": max(answer["first"][label] - median, 0.0),
                }
            )
    return rows


def disagreement(losses: dict[str, float]) -> str:
    """Name the losses that differ from the first one by more than 1e-4; empty if none does."""
    first = next(iter(losses.values()))
    wrong = [name for name, loss in losses.items() if abs(loss / first - 1.0) > 1e-4]
    return f"The losses differ, of {', '.join(wrong)}: {losses}" if wrong else ""


def draw(file: dict[str, Any]) -> str:
    """The tables of one device."""
    parts = []
    for name, case in file["cases"].items():
        if "results" not in case:
            continue
        found = case["results"]
        times = ", ".join(f"{took:.1f} ms in {k}" for k, took in found["gradient, ms"].items())
        parts.append(
            filled(
                f"`{name}`: {found['parameters']:,} parameters, {found['examples']:,} examples, "
                f"λ₁ = {found['λ₁']:.4g}, λ₂ = {found['λ₂']:.4g}. A gradient takes {times}."
            )
        )
        parts.append(markdown(SOLVER_FORMATS, found["solvers"]))
        parts.append(markdown(PRODUCT_FORMATS, found["products"]))
        if found["left out"]:
            reasons = "; ".join(f"{k} ({reason})" for k, reason in found["left out"].items())
            parts.append(filled(f"Left out: {reasons}."))
    return "\n\n".join(parts)
