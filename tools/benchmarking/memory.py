"""Peak memory against the number of examples or rows, each measured in its own process."""

import multiprocessing
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tensorflow as tf

from keras_aeos import AEoSMonitor, Eigensolver
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import compiled
from trainers import loop, schema, training
from trainers.data.feed import Feed
from trainers.tasks.base import task_of

FORMATS = {"peak memory, MB": "{:.0f}"}


def peak(case: str) -> dict[str, float]:
    """Measure a case, a key of `CASES`, in a process of its own."""
    measure, number = CASES[case]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return {"peak memory, MB": pool.submit(measure, number).result()}


def of_product(num_batches: int) -> float:
    """Peak memory, in MB, of a product over this many micro-batches of 500 random examples."""
    model, _, _ = compiled("fully_connected")
    objective = Objective(model, from_data(_examples(num_batches, 500, 3072)))
    objective.kept_bytes = 2**26
    hessian = objective.linearise()
    hessian.hessian_product(hessian.gradient)
    return _peak()


def of_measurements(number: int) -> float:
    """Peak memory, in MB, of this many rows of a monitor on four such micro-batches.

    Each solve takes four products: it does not converge, and needs the same memory.
    """
    model, _, _ = compiled("fully_connected")
    with tempfile.TemporaryDirectory() as directory:
        measured, trained = _examples(4, 500, 3072), _examples(1, 500, 3072)
        solver = Eigensolver(max_hvps=4)
        monitor = AEoSMonitor(measured, update_freq=1, solver=solver, log_dir=directory)
        model.fit(trained, epochs=number, shuffle=False, verbose=0, callbacks=[monitor])
    return _peak()


def of_update(num_batches: int) -> float:
    """Peak memory, in MB, of an update with this many micro-batches of 256 random images."""
    task = task_of(schema.Config(model=schema.CNN(), optimizer=schema.OPTIMIZERS["adam"]()))
    model = task.build_model()
    training.compile_model(model, task)
    batches = _examples(num_batches, 256, 32, 32, 3)
    examples = 256 * num_batches
    feed = Feed(lambda share: batches.repeat(), None, examples, num_batches, 1, batches, None)
    loop.fit(model, feed, 1, [])
    return _peak()


def _examples(num_batches: int, *shape: int) -> tf.data.Dataset:
    """Micro-batches of random inputs of a shape, all of class 0."""

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal(shape, tf.stack([index, 0]))
        return x, tf.zeros(shape[:1], tf.int64)

    return tf.data.Dataset.range(num_batches).map(batch)


def _peak() -> float:
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    # What the kernel counts for `getrusage` begins at the memory of the process that started this.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024


CASES = {
    **{f"product, {500 * n:,} examples": (of_product, n) for n in (4, 16, 64)},
    **{f"monitor, {n} rows": (of_measurements, n) for n in (1, 5, 20)},
    **{f"update, {256 * n:,} examples": (of_update, n) for n in (16, 64, 256)},
}
