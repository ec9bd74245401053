"""The cost and the error of a solve for the top eigenvalue of the Hessian."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import RandomDirections, unit
from tools.benchmarking.networks import NETWORKS, compiled, natural_examples, random_examples
from tools.benchmarking.reference_solvers import TOLERANCE, tridiagonal, tune_lanczos
from tools.benchmarking.tables import print_rows
from tools.benchmarking.timing import NUM_REPEATS, seconds, timed
from trainers.errors import UserError

# Steps of the Lanczos runs that give the errors and the numbers of products in hindsight.
NUM_REFERENCE_STEPS = 80
Product = Callable[[tf.Tensor], tf.Tensor]


def print_tables() -> None:
    """Print solves on natural data, then on random data."""
    for examples in (natural_examples, random_examples):
        try:
            print_rows(solves(build, examples) for build in NETWORKS)
        except UserError as error:
            print(f"Natural data is left out: {error}")
        print()


def solves(build: Callable, examples: Callable) -> dict[str, str]:
    """Measure cold and warm solves after 30 and 40 steps of Adam, in products and in gradients."""
    model, x, y = compiled(build, examples)
    made = Objective(model, from_data((x, y), len(x)))
    like = tf.zeros([made.num_parameters])
    trackers = {k: EigenpairTracker("lanczos", TOLERANCE, 100) for k in (1, 5)}
    row = {"network": build.__name__, "data": examples.__name__.removesuffix("_examples")}
    random = RandomDirections(made.num_parameters, tf.float32, seed=30)()  # the cold solve's start
    start = several_start = random
    for name, steps in (("cold", 30), ("warm", 10)):
        model.fit(x, y, batch_size=len(x), epochs=steps, verbose=0)
        hessian = made.linearise()
        arguments = next(hessian._arguments())
        gradient = statistics.median(
            seconds(lambda given=arguments: made.parts.fixed(*given)) for _ in range(NUM_REPEATS)
        )
        spent: list[float] = []
        matvec = _timed(hessian.hessian_product, spent)
        lanczos(matvec, tf.zeros([0, *like.shape]), 1, TOLERANCE, 3)  # traces
        spent.clear()
        linearised = seconds(made.linearise)
        took, result = timed(trackers[1].solve, "H", matvec, like, 1, steps)
        reference = reference_run(hessian.hessian_product, random)
        largest = np.linalg.eigvalsh(reference)
        exact = largest[-1]
        own_run, several_run = (
            reference if begin is random else reference_run(hessian.hessian_product, begin)
            for begin in (start, several_start)
        )
        row[f"{name}: products"] = str(result.num_hvps)
        row[f"{name}: in hindsight"] = str(tune_lanczos([own_run], exact))
        start = result.eigenvectors[0]
        row[f"{name}: gradients"] = f"{(linearised + took) / gradient:.1f}"
        error = abs(1.0 - result.eigenvalues[0] / exact)
        row[f"{name}: error"] = f"{error:.0e}"
        row[f"{name}: bound"] = f"{result.error_bounds[0]:.0e}"
        above = result.upper_bound / result.eigenvalues[0] - 1.0
        row[f"{name}: excluded above"] = f"+{above:.1%}"
        several = trackers[5].solve("H", hessian.hessian_product, like, 5, seed=steps)
        row[f"{name}: top 5, products"] = str(several.num_hvps)
        row[f"{name}: top 5, in hindsight"] = str(tune_lanczos([several_run], largest[-5:]))
        several_start = unit(tf.add_n(several.eigenvectors))
        if name == "cold":
            row["solver / products"] = f"{took / sum(spent) - 1.0:.1%}"
            power_result = power(
                hessian.hessian_product, tf.zeros([0, *like.shape]), 1, TOLERANCE, 100, 1
            )
            row["power: products"] = str(power_result.num_hvps)
    return row


def _timed(product: Product, spent: list[float]) -> Product:
    """Make a product append the seconds that it takes to a list."""

    def timed_product(vector: tf.Tensor) -> tf.Tensor:
        began = time.perf_counter()
        image = product(vector)
        float(image[0])  # waits for the result
        spent.append(time.perf_counter() - began)
        return image

    return timed_product


def reference_run(product: Product, start: tf.Tensor) -> np.ndarray:
    """The tridiagonal matrix of a textbook Lanczos run with products in float32."""
    matrix, _ = tridiagonal(
        lambda v: product(tf.constant(v, tf.float32)).numpy(), start.numpy(), NUM_REFERENCE_STEPS
    )
    return matrix
