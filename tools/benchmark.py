"""Measure what curvature and the optimizers cost.

    python tools/benchmark.py PART

prints Markdown tables. Times are ratios within one run. PART is one of

- curvature: a Hessian-vector product, on all examples at once and in micro-batches, in gradients
  of the loss;
- xla: a product compiled by XLA, relative to the plain one;
- solves: the top eigenvalue, on natural and on random data. The natural images are those of
  CIFAR-10, which has to be prepared;
- memory: the peak memory of a product against the number of examples, and of a monitor against
  the number of rows;
- batch: the peak memory of training against the batch size;
- overhead: the share of the training time that a monitor takes by default;
- rows: the number of rows that a monitor gives by default in 1, 10 and 60 minutes, on the natural
  data of solves;
- optimizers: an update of each optimizer, relative to the Keras optimizer of the same name.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking import (
    compiled_products,
    memory,
    overhead,
    products,
    rows,
    solves,
    updates,
)

PARTS = {
    "curvature": products.print_tables,
    "xla": compiled_products.print_table,
    "solves": solves.print_tables,
    "memory": memory.print_tables,
    "batch": memory.print_batch_table,
    "overhead": overhead.print_table,
    "rows": rows.print_table,
    "optimizers": updates.print_table,
}


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python tools/benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    PARTS[parser.parse_args().part]()


if __name__ == "__main__":
    main()
