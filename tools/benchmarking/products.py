"""The cost of a Hessian-vector product, in gradients of the loss."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import batch_size, compiled, gradient
from tools.benchmarking.timing import medians, seconds

# "gradient" is one of a training step; "linearise" and the products are in units of it.
PRODUCT_FORMATS = {
    "parameters": "{:,}",
    "examples": "{:,}",
    "gradient, ms": "{:.1f}",
    "gradient by XLA, ms": "{:.1f}",
    "linearise": "{:.2f}",
    "product": "{:.2f}",
    "multiplications": "{:.2f}",
    "product, nothing kept": "{:.2f}",
    "product / gradient by XLA": "{:.2f}",
    "tracing, s": "{:.1f}",
}
MICRO_BATCH_FORMATS = {
    "examples": "{:,}",
    "product in 4": "{:.2f}",
    "product in 16": "{:.2f}",
    "gradient in 4": "{:.2f}",
    "gradient in 16": "{:.2f}",
}


def products(name: str) -> dict[str, Any]:
    """Measure what a product costs, in gradients, and what tracing costs."""
    model, x, y = compiled(name)
    rows = batch_size(name, len(x))
    made = Objective(model, from_data((x, y), rows))
    ones = tf.ones([made.num_parameters])

    def first() -> None:
        made.linearise().hessian_product(ones)

    tracing = seconds(first) - seconds(first)
    kept = made.linearise()
    made.kept_bytes = 0
    computed = made.linearise()
    made.kept_bytes = None
    calls: dict[str, Callable] = {
        "gradient": gradient(model, x, y, rows),
        "linearise": made.linearise,
        "product": lambda: kept.hessian_product(ones),
        "product, nothing kept": lambda: computed.hessian_product(ones),
    }
    compiled_gradient, reason = _compiled_by_xla(model, x, y, rows)
    if compiled_gradient is not None:
        calls["gradient by XLA"] = compiled_gradient
    times = medians(calls)
    unit, by_xla = times["gradient"], times.get("gradient by XLA")
    return {
        "parameters": made.num_parameters,
        "examples": len(x),
        "gradient, ms": 1e3 * unit,
        "gradient by XLA, ms": None if by_xla is None else 1e3 * by_xla,
        "gradient by XLA fails": reason,
        **{label: times[label] / unit for label in ("linearise", "product")},
        "multiplications": multiplications(model),
        "product, nothing kept": times["product, nothing kept"] / unit,
        "product / gradient by XLA": None if by_xla is None else times["product"] / by_xla,
        "tracing, s": tracing,
    }


def multiplications(model: keras.Model) -> float:
    """Multiplications of a product by those of a gradient, in dense and convolutional layers.

    In a gradient a layer multiplies its input by its weights, and what comes back by both. In a
    product each of these has two factors that depend on the vector. The input of the model has no
    derivative, which leaves two multiplications in either.
    """
    first, other = 0, 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            count = math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
            if any(layer.input is tensor for tensor in model.inputs):
                first += count
            else:
                other += count
    return (2 * first + 6 * other) / (2 * first + 3 * other)


def micro_batches(name: str) -> dict[str, Any]:
    """Measure a product and a gradient in micro-batches, relative to all examples at once."""
    model, x, y = compiled(name)
    data = tuple(np.concatenate([array] * 4) for array in (x, y))
    calls: dict[str, Callable] = {}
    for parts in (1, 4, 16):
        rows = 4 * len(x) // parts
        made = Objective(model, from_data(data, rows))
        ones = tf.ones([made.num_parameters])
        calls[f"product in {parts}"] = functools.partial(made.linearise().hessian_product, ones)
        calls[f"gradient in {parts}"] = gradient(model, data[0], data[1], rows)
    times = medians(calls)
    return {
        "examples": 4 * len(x),
        **{
            f"{label} in {parts}": times[f"{label} in {parts}"] / times[f"{label} in 1"]
            for label in ("product", "gradient")
            for parts in (4, 16)
        },
    }


def _compiled_by_xla(
    model: keras.Model, x: np.ndarray, y: np.ndarray, rows: int
) -> tuple[Callable | None, str | None]:
    """The gradient compiled by XLA, or why it does not compile."""
    call = gradient(model, x, y, rows, jit_compile=True)
    try:
        call()
    except (tf.errors.OpError, ValueError, NotImplementedError) as error:
        return None, type(error).__name__
    return call, None
