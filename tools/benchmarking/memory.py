"""Peak memory against the number of examples or rows, each measured in its own process."""

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
from tools.benchmarking.tables import print_rows
from trainers import schema, training
from trainers.tasks.base import task_of


def print_tables() -> None:
    """Print the peak memory of one product, then of a monitor's rows."""
    print_rows(peaks(of_product, (4, 16, 64), "examples", 500))
    print()
    print_rows(peaks(of_measurements, (1, 5, 20), "rows"))


def print_batch_table() -> None:
    """Print the peak memory of one update against the batch size."""
    print_rows(peaks(of_update, (16, 64, 256), "examples", 256))


@contextlib.contextmanager
def limited(num_bytes: int) -> Iterator[None]:
    """Limit what linearisations keep to `num_bytes` within this context."""
    usual = objective.room
    objective.room = lambda device: num_bytes
    try:
        yield
    finally:
        objective.room = usual


def of_product(num_batches: int) -> float:
    """Peak memory, in MB, of a product over this many micro-batches of 500 random examples."""
    model, _, _ = compiled(fully_connected)
    with limited(2**26):
        hessian = Objective(model, from_data(_examples(num_batches, 500, 3072))).linearise()
        hessian.hessian_product(hessian.gradient)
    return _peak()


def of_measurements(number: int) -> float:
    """Peak memory, in MB, of this many rows of a monitor on four such micro-batches.

    Each solve takes four products: it does not converge, and needs the same memory.
    """
    model, _, _ = compiled(fully_connected)
    with limited(2**26), tempfile.TemporaryDirectory() as directory:
        measured, trained = _examples(4, 500, 3072), _examples(1, 500, 3072)
        solver = Eigensolver(max_hvps=4)
        monitor = AEoSMonitor(measured, update_freq=1, solver=solver, log_dir=directory)
        model.fit(trained, epochs=number, shuffle=False, verbose=0, callbacks=[monitor])
    return _peak()


def of_update(num_batches: int) -> float:
    """Peak memory, in MB, of an update with this many micro-batches of 256 random images."""
    task = task_of(schema.Config(model=schema.CNN(), optimizer=schema.OPTIMIZERS["adam"]()))
    model = task.build_model()
    training.compile_accumulating(model, task, num_batches)
    batches = _examples(num_batches, 256, 32, 32, 3)
    model.fit(batches, steps_per_epoch=num_batches, shuffle=False, verbose=0)
    return _peak()


def peaks(
    measure: Callable[[int], float], numbers: Iterable[int], column: str, size: int = 1
) -> Iterator[dict]:
    """Yield a row for each number: `size` times the number, and the peak memory of its process."""
    spawn = multiprocessing.get_context("spawn")
    for number in numbers:
        with ProcessPoolExecutor(1, spawn) as pool:
            peak = pool.submit(measure, number).result()
        yield {column: str(size * number), "peak memory, MB": f"{peak:.0f}"}


def _examples(num_batches: int, *shape: int) -> tf.data.Dataset:
    """Micro-batches of random inputs of a shape, all of class 0."""

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal(shape, tf.stack([index, 0]))
        return x, tf.zeros(shape[:1], tf.int64)

    return tf.data.Dataset.range(num_batches).map(batch)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
