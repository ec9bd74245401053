"""The cost of a Hessian-vector product, in gradients of the loss."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.memory import limited
from tools.benchmarking.networks import NETWORKS, compiled
from tools.benchmarking.tables import print_rows
from tools.benchmarking.timing import medians, seconds


def print_tables() -> None:
    """Print the cost of a product on all examples at once, then in micro-batches."""
    print_rows(products(build) for build in NETWORKS)
    print()
    print_rows(micro_batches(build) for build in NETWORKS)


def products(build: Callable) -> dict[str, str]:
    """Measure what a product costs, in gradients, and what tracing costs."""
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
            "gradient": _gradient(made),
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
    """Measure a product and a gradient in micro-batches, relative to all examples at once."""
    model, x, y = compiled(build)
    data = tuple(np.concatenate([array] * 4) for array in (x, y))
    calls: dict[str, Callable] = {}
    for parts in (1, 4, 16):
        made = Objective(model, from_data(data, 4 * len(x) // parts))
        ones = tf.ones([made.num_parameters])
        calls[f"product in {parts}"] = functools.partial(made.linearise().hessian_product, ones)
        calls[f"gradient in {parts}"] = _gradient(made)
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


def _gradient(objective: Objective) -> Callable[[], None]:
    """A function that computes the loss and the gradient of each micro-batch."""
    arguments = list(objective.linearise()._arguments())

    def call() -> None:
        for given in arguments:
            objective.parts.fixed(*given)

    return call
