"""The cost and the error of a solve for the top eigenvalue of the Hessian."""

import statistics
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.linearisation import Linearisation
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.power import power
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import RandomDirections, unit
from tools.benchmarking.networks import available_examples, batch_size, compiled, gradient
from tools.benchmarking.reference_solvers import TOLERANCE, tridiagonal, tune_lanczos
from tools.benchmarking.timing import NUM_REPEATS, host_reads, seconds, timed

# Cold solves, each from its own random start, whose median is the cost.
_NUM_SOLVES = 3
# Steps of the Lanczos runs that give the errors and the numbers of products in hindsight.
NUM_REFERENCE_STEPS = 80
_MAX_PRODUCTS = 100
# Parameters of the largest network that has such a run.
_LARGEST_REFERENCE = 2_000_000
Product = Callable[[tf.Tensor], tf.Tensor]

_OF_A_SOLVE = {
    "products": "{:.0f}",
    "products in hindsight": "{:.0f}",
    "gradients": "{:.1f}",
    "seconds": "{:.3f}",
    "error": "{:.0e}",
    "bound": "{:.0e}",
    "excluded above": "+{:.1%}",
    "host reads": "{:.0f}",
    "five largest, products": "{:.0f}",
    "five largest, products in hindsight": "{:.0f}",
}
FORMATS = {
    "data": "{}",
    "gradient, ms": "{:.1f}",
    **{f"cold: {label}": spec for label, spec in _OF_A_SOLVE.items()},
    "cold: time beside the products": "{:.1%}",
    "cold: products of power iteration": "{:.0f}",
    **{f"warm: {label}": spec for label, spec in _OF_A_SOLVE.items()},
}


def solves(name: str) -> dict[str, Any]:
    """Measure cold and warm solves after 30 and 40 steps of Adam, in products and in gradients."""
    model, kind, x, y = compiled(name, available_examples)
    rows = batch_size(name, len(x))
    made = Objective(model, from_data((x, y), rows))
    of_training = gradient(model, x, y, rows)
    trackers = {k: EigenpairTracker("lanczos", TOLERANCE, _MAX_PRODUCTS) for k in (1, 5)}
    random = RandomDirections(made.num_parameters, tf.float32, seed=30)()
    starts = {1: random, 5: random}
    row: dict[str, Any] = {"data": kind}
    for phase, steps in (("cold", 30), ("warm", 10)):
        train(model, x, y, rows, steps)
        hessian = made.linearise()
        other = EigenpairTracker("lanczos", TOLERANCE, _MAX_PRODUCTS)
        for seed in (1, 2):  # traces a cold and a warm solve
            solve(other, hessian, 1, seed)
        unit_time = statistics.median(seconds(of_training) for _ in range(NUM_REPEATS + 1))
        linearised = statistics.median(seconds(made.linearise) for _ in range(_NUM_SOLVES))
        with host_reads() as reads:
            took, result = timed(solve, trackers[1], hessian, 1, steps)
        several = solve(trackers[5], hessian, 5, steps)
        found = {1: result, 5: several}
        times, numbers = [took], [result.num_hvps]
        if phase == "cold":
            row["gradient, ms"] = 1e3 * unit_time
            for seed in range(1, _NUM_SOLVES):
                other = EigenpairTracker("lanczos", TOLERANCE, _MAX_PRODUCTS)
                spent, another = timed(solve, other, hessian, 1, seed)
                times.append(spent)
                numbers.append(another.num_hvps)
            row |= _beside(hessian, took, result.num_hvps)
        measured = {
            "products": statistics.median(numbers),
            "gradients": (linearised + statistics.median(times)) / unit_time,
            "seconds": linearised + statistics.median(times),
            "bound": result.error_bounds[0],
            "excluded above": result.upper_bound / result.eigenvalues[0] - 1.0,
            "host reads": reads.number,
            "five largest, products": several.num_hvps,
            **_judged(hessian, found, starts, random),
        }
        row |= {f"{phase}: {label}": float(number) for label, number in measured.items()}
        starts = {k: unit(tf.add_n(pairs.eigenvectors)) for k, pairs in found.items()}
    return row


def _beside(hessian: Linearisation, took: float, num_products: int) -> dict[str, float]:
    """The share of a cold solve beside its products, and the products of power iteration."""
    vector = unit(hessian.gradient)
    product = statistics.median(
        seconds(lambda: hessian.hessian_product(vector)) for _ in range(NUM_REPEATS)
    )
    nothing = tf.zeros([0, *vector.shape])
    by_power = power(hessian.hessian_product, nothing, 1, TOLERANCE, _MAX_PRODUCTS, 1)
    return {
        "cold: time beside the products": 1.0 - num_products * product / took,
        "cold: products of power iteration": by_power.num_hvps,
    }


def _judged(
    hessian: Linearisation,
    found: dict[int, Eigenpairs],
    starts: dict[int, tf.Tensor],
    random: tf.Tensor,
) -> dict[str, float]:
    """The error of λ₁ and the numbers of products in hindsight.

    A textbook Lanczos run in NumPy gives both. It takes too long on a GPU and too much memory for
    a large network, where the reference is a solve to 1e-5 and nothing is said in hindsight.

    Args:
        hessian: The Hessian.
        found: Solves for 1 and for 5 eigenvalues.
        starts: Their start vectors.
        random: A random direction.
    """
    value = found[1].eigenvalues[0]
    if len(random) > _LARGEST_REFERENCE or tf.config.list_physical_devices("GPU"):
        strict = solve(EigenpairTracker("lanczos", 1e-5, 3 * _MAX_PRODUCTS), hessian, 1, 1000)
        return {"error": abs(1.0 - value / strict.eigenvalues[0])}
    reference = reference_run(hessian.hessian_product, random)
    runs = {
        k: reference if start is random else reference_run(hessian.hessian_product, start)
        for k, start in starts.items()
    }
    largest = np.linalg.eigvalsh(reference)
    return {
        "products in hindsight": tune_lanczos([runs[1]], largest[-1]),
        "error": abs(1.0 - value / largest[-1]),
        "five largest, products in hindsight": tune_lanczos([runs[5]], largest[-5:]),
    }


def solve(
    tracker: EigenpairTracker, hessian: Linearisation, num_eigenvalues: int, seed: int
) -> Eigenpairs:
    """Solve for the largest eigenvalues as a row of the monitor does."""
    like = tf.zeros_like(hessian.gradient)
    operator = hessian.operator(tf.ones_like(like))
    return tracker.solve("H", operator, like, num_eigenvalues, seed)


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, rows: int, epochs: int) -> None:
    """Train for some epochs, an update each if all examples make up one batch.

    The examples are copied to the device once, which `fit` does in every epoch.
    """
    batches = [
        (tf.constant(x[begin : begin + rows]), tf.constant(y[begin : begin + rows]))
        for begin in range(0, len(x), rows)
    ]
    for _ in range(epochs):
        for batch in batches:
            model.train_on_batch(*batch)


def reference_run(product: Product, start: tf.Tensor) -> np.ndarray:
    """The tridiagonal matrix of a textbook Lanczos run with products in float32."""
    matrix, _ = tridiagonal(
        lambda v: product(tf.constant(v, tf.float32)).numpy(), start.numpy(), NUM_REFERENCE_STEPS
    )
    return matrix
