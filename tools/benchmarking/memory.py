"""Peak memory against the number of examples or measurements, each in a process of its own."""

import contextlib
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import tensorflow as tf

from keras_aeos import AEoSMonitor, Eigensolver
from keras_aeos.curvature import objective
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import compiled, fully_connected
from trainers import schema, training
from trainers.tasks.base import task_of


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
    with limited(2**26):
        hessian = Objective(model, from_data(_examples(num_batches, 500, 3072))).linearise()
        hessian.hessian_product(hessian.gradient)
    return _peak()


def of_measurements(number: int) -> float:
    """Peak memory, in MB, of so many rows of a monitor, on four micro-batches as above.

    Four products a solve, which can't converge on random data, do for the memory.
    """
    model, _, _ = compiled(fully_connected)
    with limited(2**26), tempfile.TemporaryDirectory() as directory:
        measured, trained = _examples(4, 500, 3072), _examples(1, 500, 3072)
        solver = Eigensolver(max_hvps=4)
        monitor = AEoSMonitor(measured, update_freq=1, solver=solver, log_dir=directory)
        model.fit(trained, epochs=number, shuffle=False, verbose=0, callbacks=[monitor])
    return _peak()


def of_update(num_batches: int) -> float:
    """Peak memory, in MB, of an update with so many micro-batches of 256 random images."""
    task = task_of(schema.Config(model=schema.CNN(), optimizer=schema.OPTIMIZERS["adam"]()))
    model = task.build_model()
    training.compile_accumulating(model, task, num_batches)
    batches = _examples(num_batches, 256, 32, 32, 3)
    model.fit(batches, steps_per_epoch=num_batches, shuffle=False, verbose=0)
    return _peak()


def peaks(
    measure: Callable[[int], float], numbers: Iterable[int], column: str, size: int = 1
) -> Iterator[dict]:
    """A row for each number: `size` times it, under the name `column`, and a process's peak."""
    spawn = multiprocessing.get_context("spawn")
    for number in numbers:
        with ProcessPoolExecutor(1, spawn) as pool:
            peak = pool.submit(measure, number).result()
        yield {column: str(size * number), "peak memory, MB": f"{peak:.0f}"}


def _examples(num_batches: int, *shape: int) -> tf.data.Dataset:
    """So many micro-batches of random inputs of a shape, all of them of class 0."""

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal(shape, tf.stack([index, 0]))
        return x, tf.zeros(shape[:1], tf.int64)

    return tf.data.Dataset.range(num_batches).map(batch)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
