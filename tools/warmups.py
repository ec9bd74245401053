"""Compare a warm-up by curvature with linear ones, on trainings made for it.

    python tools/warmups.py train [--minutes M] [--trainings N] [--runs DIR]
    python tools/warmups.py judge [--runs DIR]

`train` makes trainings of small networks, one file each in DIR (runs/warmups by default). Those
that are there or in docs/runs/warmups.csv.xz are left out, so it can be ended and called again;
remove the table to make all anew. From training 144 on it needs Multi30k, and later CIFAR-10, in
the directory of TensorFlow Datasets that TFDS_DATA_DIR names.

`judge` packs the ends of the trainings, if there are any, into that table, and writes the tables
and the picture of docs/acting.md.
"""

import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import planned
from tools.warming import plan

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "warmups"
TABLE = ROOT / "docs" / "runs" / "warmups.csv.xz"


def train(directory: Path, number: int, minutes: float | None) -> int:
    """Make the trainings that are missing; return how many are left."""
    from tools.warming.trainings import Bench  # it needs TensorFlow, judging does not

    bench = functools.lru_cache(1)(Bench)
    return planned.train(
        directory,
        TABLE,
        number,
        minutes,
        plan.training,
        lambda each: bench(each.task, each.optimizer).run(each),
    )


def judge(directory: Path) -> None:
    """Write the tables and the picture."""
    from tools.warming import judging, page

    planned.pack(directory, TABLE, judging.line)
    page.write(TABLE)


if __name__ == "__main__":
    planned.command("warmups", __doc__, plan.NUM_TRAININGS, RUNS, train, judge)
