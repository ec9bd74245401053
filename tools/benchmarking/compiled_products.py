"""What XLA makes of a Hessian-vector product: its time, its numbers and what compiling takes."""

import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import batch_size, compiled
from tools.benchmarking.timing import medians, timed

FORMATS = {
    "operations": "{}",
    "plain, ms": "{:.0f}",
    "compiled / plain": "{:.2f}",
    "compiling, s": "{:.1f}",
    "relative difference": "{:.0e}",
}


def compared(name: str) -> dict[str, float]:
    """Compare a product compiled by XLA with the plain one."""
    model, x, y = compiled(name)
    objective = Objective(model, from_data((x, y), batch_size(name, len(x))))
    hessian = objective.linearise()
    vector, parts = hessian.gradient, objective.parts

    def product(by_xla: bool) -> tf.Tensor:
        parts.compiled = by_xla
        result = hessian.hessian_product(vector)
        float(result[0])  # waits for the device
        return result

    plain = product(False)
    first, result = timed(product, True)
    times = medians({"plain": lambda: product(False), "compiled": lambda: product(True)})
    difference = float(tf.norm(result - plain) / tf.norm(plain))
    return {
        "operations": parts.num_operations,
        "plain, ms": 1e3 * times["plain"],
        "compiled / plain": times["compiled"] / times["plain"],
        "compiling, s": first - times["compiled"],
        "relative difference": difference,
    }
