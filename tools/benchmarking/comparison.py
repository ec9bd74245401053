"""The comparison of solvers on one network: their errors, products and times, as a table."""

import statistics
from collections.abc import Iterable

import numpy as np

from tools.benchmarking.contenders import (
    Contender,
    Framework,
    jax_framework,
    keras_framework,
    torch_framework,
)
from tools.benchmarking.problems import NUM_REPEATS, Problem, refer
from tools.benchmarking.timing import timed

COLUMNS = ("error", "products", "gradients", "time", "first call / s", "certificate")


def compare(problem: Problem, missing: set[str]) -> None:
    """Print the table of one network, without the packages that are missing."""
    exact, residual, matrices = refer(problem)
    frameworks = [keras_framework(problem)]
    if "torch" not in missing:
        frameworks.append(torch_framework(problem, missing, matrices, exact))
    if "jax" not in missing:
        frameworks.append(jax_framework(problem, missing, matrices, exact))
    losses = {framework.name: framework.loss() for framework in frameworks}
    spectrum = ", ".join(f"{v:.4g}" for v in np.linalg.eigvalsh(matrices[0])[[-1, -2, -3, 0]])
    print(
        f"\n{problem.name}: {problem.model.count_params():,} parameters, {len(problem.x):,} "
        f"examples, loss {losses['TensorFlow']:.6f}; λ₁ = {exact:.8g}, residual {residual:.1e}; "
        f"λ₁, λ₂, λ₃ and the smallest: {spectrum}\n"
    )
    if disagreement(losses):
        print(disagreement(losses))
        return
    gradients, first, solves = _measure(frameworks)
    ours = statistics.median(took for took, _, _ in solves[frameworks[0].contenders[0]])
    rows = {}
    for framework in frameworks:
        for contender in framework.contenders:
            if contender not in solves:
                continue
            seconds, values, counts = zip(*solves[contender], strict=True)
            median = statistics.median(seconds)
            rows[contender.name, contender.setting] = (
                max(abs(value / exact - 1.0) for value in values),
                statistics.median(counts),
                median / gradients[framework.name],
                median / ours,
                max(first[contender] - median, 0.0) if contender in first else None,
                contender.certificate,
            )
    print(markdown(rows))
    per_gradient = ", ".join(f"{name} {1e3 * took:.0f}" for name, took in gradients.items())
    print(f"\nA gradient, in ms: {per_gradient}")


def disagreement(losses: dict[str, float]) -> str:
    """Name the losses that differ from the first one by more than 1e-4; empty if none does."""
    first = next(iter(losses.values()))
    wrong = [name for name, loss in losses.items() if abs(loss / first - 1.0) > 1e-4]
    return f"The losses differ, of {', '.join(wrong)}: {losses}" if wrong else ""


Solves = dict[Contender, list[tuple[float, float, int]]]


def _measure(
    frameworks: Iterable[Framework],
) -> tuple[dict[str, float], dict[Contender, float], Solves]:
    """Time gradients and solves in turns.

    Returns:
        The median time of a gradient in each framework; the time of each contender's first solve,
        where frameworks compile; and seconds, eigenvalue and products of each solve. A contender
        that fails is not among them.
    """
    gradients: dict[str, list[float]] = {framework.name: [] for framework in frameworks}
    first: dict[Contender, float] = {}
    solves: Solves = {c: [] for framework in frameworks for c in framework.contenders}
    for framework in frameworks:
        framework.gradient()
        if framework.compiles:
            for contender in framework.contenders:
                first[contender], _ = timed(contender.solve, 0)
    for repeat in range(NUM_REPEATS):
        for framework in frameworks:
            gradients[framework.name].append(timed(framework.gradient)[0])
            for contender in framework.contenders:
                if contender not in solves:
                    continue
                try:
                    took, (value, count) = timed(contender.solve, repeat)
                except Exception as error:  # a peer's, of whatever kind
                    del solves[contender]
                    reason = f"{type(error).__name__}: {error}"
                    print(f"{contender.name} ({contender.setting}) failed: {reason}\n")
                else:
                    solves[contender].append((took, value, count))
            gradients[framework.name].append(timed(framework.gradient)[0])
    return {name: statistics.median(times) for name, times in gradients.items()}, first, solves


def markdown(rows: dict[tuple[str, str], tuple]) -> str:
    """Write the rows as a Markdown table, numbers aligned to the right."""
    lines = ["| solver | setting | " + " | ".join(COLUMNS) + " |"]
    lines.append("| --- | --- " + "| ---: " * (len(COLUMNS) - 1) + "| --- |")
    for names, (error, products, gradients, ratio, first, certificate) in rows.items():
        cells = [*names, f"{error:.1e}", f"{products:g}", f"{gradients:.1f}", f"{ratio:.2f}"]
        cells += ["none" if first is None else f"{first:.1f}", certificate]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
