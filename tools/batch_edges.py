"""Measure which edge of stability applies in mini-batches.

    python tools/batch_edges.py quadratics
    python tools/batch_edges.py train [--minutes M] [--trainings N] [--runs DIR]
    python tools/batch_edges.py judge [--runs DIR]

`quadratics` compares the ratio of the monitor with the exact edge of least squares in mini-batches,
from the moments of all parameters.

`train` makes trainings of small networks, one file each in DIR (runs/batch_edges by default). Those
that are there or in docs/runs/batch_edges.csv.xz are left out, so it can be ended and called again;
remove the table to make all anew. `judge` packs the files, if there are any, into that table, and
writes the table and the picture of docs/mini_batches.md.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import planned
from tools.mini_batches import plan

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "batch_edges"
TABLE = ROOT / "docs" / "runs" / "batch_edges.csv.xz"


def quadratics() -> None:
    """Print the table of least squares."""
    from tools.benchmarking.tables import print_rows
    from tools.mini_batches import quadratics

    print_rows(quadratics.at_the_edge())


def train(directory: Path, number: int, minutes: float | None) -> int:
    """Make the trainings that are missing; return how many are left."""
    from tools.mini_batches import trainings  # it needs TensorFlow, judging does not

    return planned.train(directory, TABLE, number, minutes, plan.training, trainings.run)


def judge(directory: Path) -> None:
    """Write the table and the picture."""
    from tools.mini_batches import plateaus

    planned.pack(directory, TABLE, lambda number, rows: rows)
    plateaus.write(TABLE)


if __name__ == "__main__":
    planned.command(
        "batch_edges",
        __doc__,
        len(plan.COMBINATIONS),
        RUNS,
        train,
        judge,
        {"quadratics": quadratics},
    )
