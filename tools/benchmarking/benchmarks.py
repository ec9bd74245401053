"""All benchmarks, the most important first."""

import functools
from collections.abc import Callable, Sequence

from tools.benchmarking import (
    comparison,
    compiled_products,
    memory,
    networks,
    overhead,
    products,
    replicas,
    row_cost,
    rows,
    soak,
    solves,
    tables,
    updates,
)
from tools.benchmarking.plan import Benchmark


def _small() -> Sequence[str]:
    """Networks for what takes many times as long as a product."""
    return networks.LAPTOP


def _compared() -> Sequence[str]:
    """Networks on which solvers are compared; one is added where its data fit on a GPU."""
    names = ["fully_connected", "convolutional"]
    return [*names, "fully_connected_50000"] if networks.usual() is networks.GPU else names


def _monitored() -> Sequence[str]:
    return networks.LAPTOP[:3]


def _table(formats: dict[str, str]) -> Callable[..., str]:
    return functools.partial(tables.draw, formats=formats)


BENCHMARKS: dict[str, Benchmark] = {
    "curvature": Benchmark(products.products, networks.usual, _table(products.PRODUCT_FORMATS)),
    "solves": Benchmark(solves.solves, networks.usual, _table(solves.FORMATS)),
    "row": Benchmark(row_cost.row_cost, networks.usual, _table(row_cost.FORMATS)),
    "peers": Benchmark(comparison.compare, _compared, comparison.draw),
    "micro_batches": Benchmark(
        products.micro_batches, _small, _table(products.MICRO_BATCH_FORMATS)
    ),
    "optimizers": Benchmark(
        updates.updates, lambda: list(updates.OPTIMIZERS), _table(updates.FORMATS)
    ),
    "memory": Benchmark(memory.peak, lambda: list(memory.CASES), _table(memory.FORMATS)),
    "xla": Benchmark(compiled_products.compared, networks.usual, _table(compiled_products.FORMATS)),
    "replicas": Benchmark(
        replicas.shared, lambda: [*replicas.CASES, *replicas.KEPT], _table(replicas.FORMATS)
    ),
    "rows": Benchmark(rows.rows, _small, _table(rows.FORMATS)),
    "overhead": Benchmark(overhead.overhead, _monitored, _table(overhead.FORMATS)),
    "soak": Benchmark(soak.soak, lambda: list(soak.CASES)[:1], _table(soak.FORMATS), alone=True),
}
