"""What curvature and the optimizers cost, as ratios within one run.

    python tools/benchmark.py curvature
    python tools/benchmark.py solves
    python tools/benchmark.py memory
    python tools/benchmark.py batch
    python tools/benchmark.py overhead
    python tools/benchmark.py optimizers

`curvature` prints for each network the cost of a Hessian-vector product, whole and in
micro-batches, in gradients of the loss, and `solves` that of the top eigenvalue, on natural and on
random data; for the natural images CIFAR-10 has to be prepared. `memory` prints how
the memory of a product grows with the number of examples and that of a monitor with the number of
rows, `batch` that of training with the batch, `overhead` what share of the training time a monitor
takes by default. `optimizers` prints for each optimizer the time of an update against that of the
Keras optimizer of the same name.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras_aeos
from keras_aeos import optimizers
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.power import power
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import RandomDirections, unit
from tools.benchmarking.memory import limited, of_measurements, of_product, of_update, peaks
from tools.benchmarking.networks import (
    NETWORKS,
    compiled,
    fully_connected,
    natural_examples,
    random_examples,
)
from tools.benchmarking.reference_solvers import TOLERANCE, tridiagonal, tune_lanczos
from trainers.errors import UserError

NUM_REPEATS = 7
# Steps of the Lanczos runs that the errors, and the products in hindsight, are taken from.
NUM_REFERENCE_STEPS = 80
# A monitored training goes on for so many times the length of its first row, from fifty times of
# which on the monitor keeps its limit.
OVERHEAD_LENGTH = 60.0
NUM_UPDATE_PAIRS = 200

# ours against the stock one of the same name and settings
STOCK: dict[str, tuple[Callable, Callable]] = {
    "GradientDescent / SGD": (optimizers.GradientDescent, keras.optimizers.SGD),
    "HeavyBall / SGD(momentum)": (
        optimizers.HeavyBall,
        lambda: keras.optimizers.SGD(momentum=0.9),
    ),
    "Nesterov / SGD(nesterov)": (
        optimizers.Nesterov,
        lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
    ),
    "RMSprop": (optimizers.RMSprop, keras.optimizers.RMSprop),
    "Adagrad": (optimizers.Adagrad, keras.optimizers.Adagrad),
    "Adam": (optimizers.Adam, keras.optimizers.Adam),
    "AdamW": (optimizers.AdamW, keras.optimizers.AdamW),
    "AMSGrad / Adam(amsgrad)": (
        lambda: optimizers.AMSGrad(bias_correction=True),
        lambda: keras.optimizers.Adam(amsgrad=True),
    ),
    "Nadam": (lambda: optimizers.Nadam(bias_correction=True), keras.optimizers.Nadam),
    "Adafactor": (
        lambda: optimizers.Adafactor(beta_1=0.0, clip_threshold=1.0, parameter_scaling=True),
        keras.optimizers.Adafactor,
    ),
}


def seconds(call: Callable) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def medians(calls: Mapping[str, Callable]) -> dict[str, float]:
    """Median wall time of each call, over interleaved repeats."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(NUM_REPEATS + 1):
        for name, call in calls.items():
            took = seconds(call)
            if repeat:  # the first call may trace
                times[name].append(took)
    return {name: statistics.median(values) for name, values in times.items()}


def gradient_of(objective: Objective) -> Callable:
    """A function that computes loss and gradient of each micro-batch."""
    arguments = list(objective.linearise()._arguments())

    def call() -> None:
        for given in arguments:
            objective.parts.fixed(*given)

    return call


def products(build: Callable) -> dict[str, str]:
    """What a product costs, in gradients, and what tracing costs."""
    model, x, y = compiled(build)
    made = Objective(model, from_data((x, y), len(x)))
    ones = tf.ones([made.num_parameters])

    def first() -> None:
        made.linearise().hessian_product(ones)

    tracing = seconds(first) - seconds(first)
    kept = made.linearise()
    with limited(0):
        computed = made.linearise()
    times = medians(
        {
            "gradient": gradient_of(made),
            "linearise": made.linearise,
            "product": lambda: kept.hessian_product(ones),
            "product, nothing kept": lambda: computed.hessian_product(ones),
        }
    )
    gradient = times.pop("gradient")
    return {
        "network": build.__name__,
        "gradient, ms": f"{1e3 * gradient:.0f}",
        **{name: f"{value / gradient:.2f}" for name, value in times.items()},
        "tracing, s": f"{tracing:.1f}",
    }


def micro_batches(build: Callable) -> dict[str, str]:
    """What a product and a gradient cost in micro-batches, against all examples at once."""
    model, x, y = compiled(build)
    data = tuple(np.concatenate([array] * 4) for array in (x, y))
    calls: dict[str, Callable] = {}
    for parts in (1, 4, 16):
        made = Objective(model, from_data(data, 4 * len(x) // parts))
        ones = tf.ones([made.num_parameters])
        calls[f"product in {parts}"] = functools.partial(made.linearise().hessian_product, ones)
        calls[f"gradient in {parts}"] = gradient_of(made)
    times = medians(calls)
    return {
        "network": build.__name__,
        "examples": str(4 * len(x)),
        **{
            f"{name} in {parts}": f"{times[f'{name} in {parts}'] / times[f'{name} in 1']:.2f}"
            for name in ("product", "gradient")
            for parts in (4, 16)
        },
    }


def reference_run(product: Callable, start: tf.Tensor) -> np.ndarray:
    """The tridiagonal matrix of a Lanczos run on a product in float32, not by our solver."""
    matrix, _ = tridiagonal(
        lambda v: product(tf.constant(v, tf.float32)).numpy(), start.numpy(), NUM_REFERENCE_STEPS
    )
    return matrix


def solves(build: Callable, examples: Callable) -> dict[str, str]:
    """Cold and warm solves after 30 and 40 steps of Adam, in products and in gradients."""
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

        def matvec(vector: tf.Tensor, hessian=hessian, spent=spent) -> tf.Tensor:
            began = time.perf_counter()
            product = hessian.hessian_product(vector)
            float(product[0])
            spent.append(time.perf_counter() - began)
            return product

        lanczos(matvec, tf.zeros([0, *like.shape]), 1, TOLERANCE, 3)  # traces
        spent.clear()
        linearised = seconds(made.linearise)
        began = time.perf_counter()
        result = trackers[1].solve("H", matvec, like, 1, seed=steps)
        took = time.perf_counter() - began
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


def overhead(build: Callable) -> dict[str, str]:
    """The share of the wall time that a monitor takes by default, as it logs it and as seen."""
    model, x, y = compiled(build)
    size = len(x) // 4
    with tempfile.TemporaryDirectory() as directory:
        monitor = keras_aeos.AEoSMonitor(log_dir=directory)
        model.fit(x, y, batch_size=size, verbose=0)  # traces
        began = time.perf_counter()
        stop = StopAfter(monitor)
        model.fit(x, y, batch_size=size, epochs=10**6, verbose=0, callbacks=[monitor, stop])
        watched = time.perf_counter() - began
    few = -(-stop.num_epochs // 5)
    unwatched = seconds(lambda: model.fit(x, y, batch_size=size, epochs=few, verbose=0))
    history = monitor.history
    return {
        "network": build.__name__,
        "seconds": f"{watched:.0f}",
        "steps": str(4 * stop.num_epochs),
        "rows": str(len(history)),
        "first row, s": f"{history['seconds'][0]:.1f}",
        "later rows, s": f"{history['seconds'][1:].median():.2f}",
        "logged share": f"{history['overhead'].iloc[-1]:.1%}",
        "share of the whole time": f"{history['seconds'].sum() / watched:.1%}",
        "time with / without the monitor": f"{watched / stop.num_epochs / (unwatched / few):.3f}",
    }


class StopAfter(keras.callbacks.Callback):
    """Ends training at an epoch end after many times the length of a monitor's first row."""

    def __init__(self, monitor: keras_aeos.AEoSMonitor) -> None:
        super().__init__()
        self._monitor = monitor
        self._began = time.perf_counter()
        self.num_epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look at the clock."""
        self.num_epochs = epoch + 1
        rows = self._monitor.history["seconds"]
        elapsed = time.perf_counter() - self._began
        self.model.stop_training = len(rows) > 0 and elapsed > OVERHEAD_LENGTH * rows[0]


def compare_updates(ours: Callable, stock: Callable) -> float:
    """Median ratio of the times of an update, pair by pair, on the fully connected network."""
    generator = np.random.default_rng(0)
    shapes = [v.shape for v in fully_connected()[0].trainable_variables]
    gradients = [tf.constant(generator.standard_normal(s), tf.float32) for s in shapes]

    def updater(optimizer: keras.optimizers.Optimizer) -> Callable:
        variables = [keras.Variable(g) for g in gradients]
        optimizer.build(variables)
        return tf.function(lambda: optimizer.apply(gradients, variables))

    updates = updater(ours()), updater(stock())
    ratios = []
    for pair in range(NUM_UPDATE_PAIRS):
        seconds = []
        for update in updates if pair % 2 else reversed(updates):
            began = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1] if pair % 2 else seconds[1] / seconds[0])
    # The first pairs trace.
    return statistics.median(ratios[10:])


def compare_optimizers() -> None:
    """Print one row an optimizer, as a Markdown table."""
    print("| optimizer | update / stock update |\n| --- | --- |")
    for name, (ours, stock) in STOCK.items():
        print(f"| {name} | {compare_updates(ours, stock):.2f} |", flush=True)


def print_rows(rows: Iterable[dict[str, str]]) -> None:
    """Print rows as they come, as a Markdown table."""
    for index, row in enumerate(rows):
        if index == 0:
            print("| " + " | ".join(row) + " |\n" + "| --- " * len(row) + "|")
        print("| " + " | ".join(row.values()) + " |", flush=True)


def measure_curvature() -> None:
    """Print products, whole and in micro-batches."""
    print_rows(products(build) for build in NETWORKS)
    print()
    print_rows(micro_batches(build) for build in NETWORKS)


def measure_solves() -> None:
    """Print solves on natural data, then on random data."""
    for examples in (natural_examples, random_examples):
        try:
            print_rows(solves(build, examples) for build in NETWORKS)
        except UserError as error:
            print(f"Natural data is left out: {error}")
        print()


def measure_memory() -> None:
    """Print the memory of one product, then that of a monitor's rows."""
    print_rows(peaks(of_product, (4, 16, 64), "examples", 500))
    print()
    print_rows(peaks(of_measurements, (1, 5, 20), "rows"))


def main() -> None:
    """Run the part that the command line names."""
    parts = {
        "curvature": measure_curvature,
        "solves": measure_solves,
        "memory": measure_memory,
        "batch": lambda: print_rows(peaks(of_update, (16, 64, 256), "examples", 256)),
        "overhead": lambda: print_rows(overhead(build) for build in NETWORKS[:3]),
        "optimizers": compare_optimizers,
    }
    parser = argparse.ArgumentParser(prog="python tools/benchmark.py", description=__doc__)
    parser.add_argument("part", choices=parts)
    parts[parser.parse_args().part]()


if __name__ == "__main__":
    main()
