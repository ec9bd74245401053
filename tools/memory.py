"""Peak memory against the number of examples, each in a process of its own."""

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import tensorflow as tf

from keras_aeos.curvature import objective
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.networks import compiled, fully_connected
from trainers import schema, training


@contextlib.contextmanager
def limited(num_bytes: int) -> Iterator[None]:
    """Within this context linearisations keep no more than `num_bytes`."""
    usual = objective._KEPT_BYTES
    objective._KEPT_BYTES = num_bytes
    try:
        yield
    finally:
        objective._KEPT_BYTES = usual


def of_product(num_batches: int) -> float:
    """Peak memory, in MB, of a product over so many micro-batches of 500 random examples."""
    model, _, _ = compiled(fully_connected)

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal([500, 3072], tf.stack([index, 0]))
        return x, tf.zeros([500], tf.int64)

    with limited(2**26):
        made = Objective(model, from_data(tf.data.Dataset.range(num_batches).map(batch)))
        hessian = made.linearise()
        hessian.hessian_product(hessian.gradient)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_update(num_batches: int) -> float:
    """Peak memory, in MB, of an update with so many micro-batches of 256 random images."""
    config = schema.Config(model=schema.CNN(), optimizer=schema.Adam(), output_dir="")
    model = training.build_model(config)
    training.compile_accumulating(model, config, num_batches)

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal([256, 32, 32, 3], tf.stack([index, 0]))
        return x, tf.zeros([256], tf.int64)

    batches = tf.data.Dataset.range(num_batches).map(batch)
    model.fit(batches, steps_per_epoch=num_batches, shuffle=False, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peaks(measure: Callable[[int], float], size: int, numbers: Iterable[int]) -> Iterator[dict]:
    """A row for each number of micro-batches of a size: examples and peak memory of a process."""
    spawn = multiprocessing.get_context("spawn")
    for number in numbers:
        with ProcessPoolExecutor(1, spawn) as pool:
            peak = pool.submit(measure, number).result()
        yield {"examples": str(size * number), "peak memory, MB": f"{peak:.0f}"}
