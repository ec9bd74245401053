"""Measure how well an alarm announces that a training diverges, on trainings made for it.

    python tools/alarms.py train [--minutes M] [--trainings N] [--runs DIR]
    python tools/alarms.py judge [--runs DIR]

`train` makes trainings of small networks, without injected faults, one file each in DIR
(runs/alarms by default). Those that are there or in docs/runs/alarms.csv.xz are left out, so it can
be ended and called again; remove the table to make all anew. From training 144 on it needs
CIFAR-10, and from 240 on Multi30k, in the directory of TensorFlow Datasets that TFDS_DATA_DIR
names.

`judge` packs the files, if there are any, into that table, fits the coefficients of
`keras_aeos.DivergenceAlarm` in keras_aeos/alarm_rule.json to them, and writes the table and the
picture of docs/acting.md. It takes a minute.
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
from tools.alarming import curves, plan

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "alarms"
TABLE = ROOT / "docs" / "runs" / "alarms.csv.xz"


def train(directory: Path, number: int, minutes: float | None) -> int:
    """Make the trainings that are missing; return how many are left."""
    from tools.alarming.trainings import Bench, quietly  # they need TensorFlow, judging does not

    bench = functools.cache(Bench)
    return planned.train(
        directory,
        TABLE,
        number,
        minutes,
        plan.training,
        lambda each: quietly(bench(each.network), each),
    )


def judge(directory: Path) -> None:
    """Fit the rule, and write the table and the picture."""
    from tools.alarming import page

    planned.pack(directory, TABLE, curves.lines)
    page.write(TABLE)


if __name__ == "__main__":
    planned.command("alarms", __doc__, plan.NUM_COMBINATIONS, RUNS, train, judge)
