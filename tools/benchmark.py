"""Measure what curvature and the optimizers cost, on the first GPU or else on the CPU.

    python tools/benchmark.py NAME [--cases CASE ...]
    python tools/benchmark.py all [--minutes 10]
    python tools/benchmark.py tables

measures, stores the numbers in docs/benchmark/DEVICE/NAME.json and draws the tables of
docs/benchmark.md and docs/scaling.md from all that is stored there. NAME is one of

- curvature: a Hessian-vector product and a gradient of the loss;
- solves: the top eigenvalue, cold and warm. Natural images are those of CIFAR-10, which has to be
  prepared; otherwise the data are random;
- row: the cost of a later row of a monitor with its default columns;
- peers: the top eigenvalue by other packages (`python tools/peers.py --help`);
- micro_batches: products and gradients in micro-batches;
- optimizers: an update of each optimizer, relative to the Keras optimizer of the same name;
- memory: the peak memory of a product, of a monitor and of an update;
- xla: products compiled by XLA;
- replicas: a product that several devices share, each with one core of the CPU;
- rows: the number of rows in trainings of 1, 10 and 60 minutes;
- overhead: the share of the training time that a monitor takes by default;
- soak: memory, file handles, threads and the time of a row in a training of an hour, with
  --cases "3 minutes" in a shorter one;
- all: all but the last of these in this order, except for what is stored for the present source.
  One that fails doesn't stop the others. With --minutes the last ones are left for the next call;
- tables: none, the tables are drawn.

CASE is a network of tools/benchmarking/networks.py or another case of a benchmark. Without --cases
those that are usual on the device are measured: the large networks on a GPU alone.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# The processes of a comparison import this file, and must not import TensorFlow with it.


def main() -> None:
    """Measure what the command line names, and draw the tables."""
    from tools.benchmarking import page
    from tools.benchmarking.benchmarks import BENCHMARKS

    parser = argparse.ArgumentParser(
        prog="python tools/benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = (*BENCHMARKS, "all", "tables")
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--cases", nargs="+", default=(), metavar="CASE", help="what to measure")
    parser.add_argument("--minutes", type=float, help="time budget; default: none")
    arguments = parser.parse_args()
    if arguments.name != "tables":
        measure(arguments.name, arguments.cases, arguments.minutes)
    page.draw()


def measure(name: str, cases: list[str], minutes: float | None) -> None:
    """Measure one benchmark, or all that have no numbers of the present source."""
    from tools.benchmarking import plan
    from tools.benchmarking.benchmarks import BENCHMARKS
    from tools.benchmarking.store import Store

    # The processes that measure are stopped on the way out, which a signal alone would skip.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stores = {benchmark: Store(benchmark) for benchmark in BENCHMARKS}
    if name == "all":
        jobs = plan.pending(BENCHMARKS, stores, cases)
    else:
        jobs = [(name, case) for case in cases or BENCHMARKS[name].cases()]
    for benchmark, case in plan.run(jobs, BENCHMARKS, stores, minutes):
        print(f"{benchmark}, {case}: left for the next call")


if __name__ == "__main__":
    main()
