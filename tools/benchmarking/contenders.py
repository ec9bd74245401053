"""The solvers for a top eigenvalue that are compared, by framework."""

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Solve = Callable[[int], tuple[float, int]]
# The modules of the frameworks; each has a function `framework(task, missing)`.
FRAMEWORKS = {
    "TensorFlow": "tools.benchmarking.keras_contenders",
    "PyTorch": "tools.benchmarking.torch_contenders",
    "JAX": "tools.benchmarking.jax_contenders",
}
# What their contenders need beside them.
PACKAGES = {
    "TensorFlow": (),
    "PyTorch": ("pyhessian", "hessian_eigenthings", "curvlinops", "scipy"),
    "JAX": ("scipy",),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What all contenders are given, in arrays that go from process to process.

    Attributes:
        name: A key of `tools.benchmarking.problems.BUILDERS`.
        weights: Arrays of the trainable variables, in Keras's order and layout.
        x: Inputs (N, ...), channels last.
        y: Labels (N,).
        starts: Start vectors (n,), one a repeat.
        matrices: The tridiagonal matrix of a Lanczos run from each start.
        exact: The largest eigenvalue, from float64.
    """

    name: str
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray
    starts: list[np.ndarray]
    matrices: list[np.ndarray]
    exact: float

    @property
    def convolves(self) -> bool:
        """Whether the network has convolutions."""
        return self.x.ndim == 4


@dataclasses.dataclass(frozen=True)
class Contender:
    """A solver for the top eigenvalue, with its settings.

    Attributes:
        name: Package and solver.
        setting: "default" or "tuned ...".
        certificate: What it says about its own error.
        solve: Function that takes the number of a start, and returns the eigenvalue and the number
            of products, as (λ, count).
    """

    name: str
    setting: str
    certificate: str
    solve: Solve


@dataclasses.dataclass(frozen=True)
class Framework:
    """A framework with its contenders. Each function waits for the device.

    Attributes:
        loss: Function that computes the loss.
        gradient: Function that computes the gradient, the unit of the contenders' times.
        products: By name, functions that multiply one vector by the Hessian. The first call may
            compile, or fail.
        contenders: The solvers that compute their products in this framework.
        device: What it computes on, "cpu" or "gpu".
    """

    loss: Callable[[], float]
    gradient: Callable[[], Any]
    products: dict[str, Callable[[], Any]]
    contenders: list[Contender]
    device: str


def start(name: str, task: Task, missing: set[str]) -> Framework:
    """Import a framework, and give its contenders the task."""
    return importlib.import_module(FRAMEWORKS[name]).framework(task, missing)


def stay_on_one_core() -> None:
    """Use one core, in this process and all libraries that it loads later.

    More threads than free cores would measure how the frameworks wait for each other's threads.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])


def unavailable(packages: Iterable[str]) -> dict[str, str]:
    """Find packages that cannot be imported, and Python's reason for each."""
    reasons = {}
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            reasons[package] = f"{type(error).__name__}: {error}"
    return reasons


def tuned_name(options: dict[str, Any]) -> str:
    """Name a tuned setting as the table does."""
    return "tuned, " + ", ".join(f"{name}={value:g}" for name, value in options.items())
