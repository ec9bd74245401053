"""A product that several devices share: its time, and what each device keeps for it."""

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking import networks
from tools.benchmarking.timing import medians

NUM_DEVICES = (1, 2, 4)
# Layers of the fully connected networks, which have as many inputs as units.
_NUM_LAYERS = 4
CASES = {f"units_{width}": width for width in (128, 512, 2048)}
_NUM_EXAMPLES = 256
# Networks of which the kept values are counted, not timed.
KEPT = ("resnet50", "transformer_6")
FORMATS = {
    "parameters": "{:,}",
    "examples": "{:,}",
    **{f"product on {number}, ms": "{:.1f}" for number in NUM_DEVICES},
    "communication, MB": "{:.2f}",
    **{f"kept by each of {number}, MB": "{:.1f}" for number in NUM_DEVICES},
    "kept for an example, MB": "{:.2f}",
}


def shared(case: str) -> dict[str, Any]:
    """Measure a case in a process of its own, whose CPU appears as several devices."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        if case in KEPT:
            return pool.submit(_kept, case).result()
        return pool.submit(_timed, CASES[case]).result()


def _timed(width: int) -> dict[str, Any]:
    """A product on 1, 2 and 4 devices, each of which computes on one core."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    [cpu] = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(max(NUM_DEVICES))]
    tf.config.set_logical_device_configuration(cpu, devices)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((_NUM_EXAMPLES, width), dtype=np.float32)
    y = generator.integers(0, 10, _NUM_EXAMPLES)
    calls: dict[str, Callable[[], Any]] = {}
    kept: dict[str, float] = {}
    for number in NUM_DEVICES:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(number)])
        with strategy.scope():
            hidden = [layers.Dense(width, "tanh") for _ in range(_NUM_LAYERS)]
            model = keras.Sequential([keras.Input((width,)), *hidden, layers.Dense(10)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("sgd", loss)
        objective = Objective(model, from_data((x, y)))
        hessian = objective.linearise()
        operator: Any = hessian.operator(tf.ones([objective.num_parameters]))
        product = tf.function(operator.program.product, autograph=False)
        calls[f"product on {number}, ms"] = functools.partial(
            product, tf.ones([objective.num_parameters]), *operator.state
        )
        kept[f"kept by each of {number}, MB"] = sum(map(_megabytes, hessian.kept[0::number]))
    times = medians(calls)
    return {
        "parameters": objective.num_parameters,
        "examples": _NUM_EXAMPLES,
        **{label: 1e3 * seconds for label, seconds in times.items()},
        "communication, MB": 4 * objective.num_parameters / 2**20,
        **kept,
    }


def _kept(name: str) -> dict[str, Any]:
    """Values that a linearisation keeps of one example and of another one, by their shapes.

    Left out are those of unknown shape, lists of sizes and indices.
    """
    model, x, y = networks.compiled(name)
    sizes = []
    for rows in (1, 2):
        objective = Objective(model, from_data((x[:rows], y[:rows])))
        known = [s for s in objective.parts.value_specs if s.shape.is_fully_defined()]
        sizes.append(sum(s.dtype.size * s.shape.num_elements() for s in known) / 2**20)
    return {
        "parameters": objective.num_parameters,
        "examples": 1,
        "communication, MB": 4 * objective.num_parameters / 2**20,
        "kept by each of 1, MB": sizes[0],
        "kept for an example, MB": sizes[1] - sizes[0],
    }


def _megabytes(values: list[tf.Tensor]) -> float:
    return sum(v.dtype.size * v.shape.num_elements() for v in values) / 2**20
