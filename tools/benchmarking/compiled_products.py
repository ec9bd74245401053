"""What XLA makes of a Hessian-vector product: its time, its numbers and what compiling takes."""

from collections.abc import Callable

import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import NETWORKS, compiled
from tools.benchmarking.tables import print_rows
from tools.benchmarking.timing import medians, timed


def print_table() -> None:
    """Print the time and the difference of a compiled product, relative to the plain one."""
    print_rows(compared(build) for build in NETWORKS)


def compared(build: Callable) -> dict[str, str]:
    """Compare a compiled product with the plain one, on all examples of a network at once."""
    model, x, y = compiled(build)
    objective = Objective(model, from_data((x, y), len(x)))
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
        "network": build.__name__,
        "operations": str(parts.num_operations),
        "plain, ms": f"{1e3 * times['plain']:.0f}",
        "compiled / plain": f"{times['compiled'] / times['plain']:.2f}",
        "compiling, s": f"{first - times['compiled']:.1f}",
        "relative difference": f"{difference:.0e}",
    }
