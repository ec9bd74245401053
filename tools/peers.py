"""The top eigenvalue of one Hessian, by keras_aeos and by its peers, in one run.

    pip install -e ".[benchmark]"
    python tools/prepare_data.py cifar10
    python tools/peers.py

Every contender gets the same network with the same weights, the same data and one thread. One
table is printed for each network; a package that is not installed is left out, with a line that
says so. Its columns:

- error: of the eigenvalue, relative to a reference in float64; the largest over the repeats.
- products: with the Hessian over all examples.
- gradients: time of a solve in times of one gradient in the same framework.
- time: of a solve, relative to that of `keras_aeos.top_eigenpairs`.
- first call: what the first solve took longer, in seconds: tracing and compilation, which PyTorch
  does without.
- certificate: what the contender says about the error of its own answer.

Each repeat has a random start of its own, shared where a contender lets it be chosen. Medians are
printed except for the error. The settings called "tuned" are the cheapest ones that reach a
relative error of 1e-3 from all of these starts, found on the tridiagonal matrices of Lanczos runs
from the same starts: only who knows the answer can choose them, and they certify nothing.
"""

import importlib
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking.contenders import (
    Contender,
    jax_contenders,
    keras_contenders,
    torch_contenders,
)
from tools.benchmarking.problems import BUILDERS, NUM_REPEATS, Problem, prepare, refer
from trainers.errors import UserError

# More threads than free cores would measure how the frameworks wait for each other's threads.
NUM_THREADS = 1
COLUMNS = ("error", "products", "gradients", "time", "first call / s", "certificate")
PEERS = ("scipy", "torch", "pyhessian", "hessian_eigenthings", "curvlinops", "jax")


def disagreement(losses: dict[str, float]) -> str:
    """A line that says which losses differ from the first one by more than 1e-4; empty if none."""
    first = next(iter(losses.values()))
    wrong = [name for name, loss in losses.items() if abs(loss / first - 1.0) > 1e-4]
    return f"The losses differ, of {', '.join(wrong)}: {losses}" if wrong else ""


def timed(function: Callable, *arguments) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def compare(problem: Problem, missing: set[str]) -> None:
    """Print the table of one network."""
    exact, residual, matrices = refer(problem)
    parts = {"TensorFlow": keras_contenders(problem)}
    if "torch" not in missing:
        parts["PyTorch"] = torch_contenders(problem, missing, matrices, exact)
    if "jax" not in missing:
        parts["JAX"] = jax_contenders(problem, missing, matrices, exact)
    losses = {name: loss() for name, (loss, _, _) in parts.items()}
    spectrum = ", ".join(f"{v:.4g}" for v in np.linalg.eigvalsh(matrices[0])[[-1, -2, -3, 0]])
    print(
        f"\n{problem.name}: {problem.model.count_params():,} parameters, {len(problem.x):,} "
        f"examples, loss {losses['TensorFlow']:.6f}; λ₁ = {exact:.8g}, residual {residual:.1e}; "
        f"λ₁, λ₂, λ₃ and the smallest: {spectrum}\n"
    )
    if disagreement(losses):
        print(disagreement(losses))
        return

    gradients: dict[str, list[float]] = {name: [] for name in parts}
    failed: set[Contender] = set()
    first: dict[Contender, float] = {}
    seconds: dict[Contender, list[float]] = {
        c: [] for _, _, contenders in parts.values() for c in contenders
    }
    results: dict[Contender, list[tuple[float, int]]] = {contender: [] for contender in seconds}
    for name, (_, gradient, contenders) in parts.items():
        gradient()
        if name != "PyTorch":  # nothing is compiled there
            for contender in contenders:
                first[contender], _ = timed(contender.solve, 0)
    for repeat in range(NUM_REPEATS):
        for name, (_, gradient, contenders) in parts.items():
            gradients[name].append(timed(gradient)[0])
            for contender in contenders:
                if contender in failed:
                    continue
                try:
                    duration, result = timed(contender.solve, repeat)
                except Exception as error:  # a peer's, of whatever kind
                    failed.add(contender)
                    reason = f"{type(error).__name__}: {error}"
                    print(f"{contender.name} ({contender.setting}) failed: {reason}\n")
                else:
                    seconds[contender].append(duration)
                    results[contender].append(result)
            gradients[name].append(timed(gradient)[0])

    ours = statistics.median(seconds[parts["TensorFlow"][2][0]])
    rows = {}
    for contender, durations in seconds.items():
        if contender in failed:
            continue
        median = statistics.median(durations)
        rows[contender.name, contender.setting] = (
            max(abs(value / exact - 1.0) for value, _ in results[contender]),
            statistics.median(count for _, count in results[contender]),
            median / statistics.median(gradients[contender.framework]),
            median / ours,
            max(first[contender] - median, 0.0) if contender in first else None,
            contender.certificate,
        )
    print(markdown(rows))
    per_gradient = {name: 1e3 * statistics.median(values) for name, values in gradients.items()}
    print("\nA gradient, in ms: " + ", ".join(f"{n} {ms:.0f}" for n, ms in per_gradient.items()))


def markdown(rows: dict[tuple[str, str], tuple]) -> str:
    """The rows as a Markdown table."""
    lines = ["| solver | setting | " + " | ".join(COLUMNS) + " |"]
    lines.append("| --- | --- " + "| ---: " * (len(COLUMNS) - 1) + "| --- |")
    for names, (error, products, gradients, ratio, first, certificate) in rows.items():
        cells = [*names, f"{error:.1e}", f"{products:g}", f"{gradients:.1f}", f"{ratio:.2f}"]
        cells += ["none" if first is None else f"{first:.1f}", certificate]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def unavailable(packages: Iterable[str]) -> dict[str, str]:
    """Packages that can't be imported, with what Python says about it."""
    reasons = {}
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            reasons[package] = f"{type(error).__name__}: {error}"
    return reasons


def start_jax() -> None:
    """Let JAX make its threads: as many as it sees processors, for want of a setting."""
    import jax

    if not hasattr(os, "sched_setaffinity"):
        print("JAX takes as many threads as there are processors.")
        return
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(processors)[:NUM_THREADS])
    jax.devices()
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


def main() -> None:
    """Print one table a network."""
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    # PyHessian keeps gradients with their graph in the parameters; PyTorch warns of it.
    warnings.filterwarnings("ignore", "Using backward", UserWarning)
    # Triton, which PyTorch's GPU wheels bring along, crashes beside TensorFlow; nothing needs it.
    sys.modules["triton"] = None  # type: ignore[assignment]
    reasons = unavailable(PEERS)
    for package, reason in reasons.items():
        print(f"{package} is left out: {reason}")
    if "torch" not in reasons:
        import torch

        torch.set_num_threads(NUM_THREADS)
    if "jax" not in reasons:
        start_jax()
    try:
        for name in BUILDERS:
            compare(prepare(name), set(reasons))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
