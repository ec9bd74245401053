"""Compare critical learning rates with a fine scan of the loss and with the stability threshold.

    python tools/critical_learning_rates.py [--out critical_learning_rates.csv]

prints one row for each training of small networks that tools/benchmarking/trainings.py describes,
and writes a line for each measurement to the CSV file. After every tenth update the loss of all
examples is scanned along that update, from where it began, at learning rates 0.25% apart.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import tensorflow as tf

import keras_aeos
from keras_aeos.curvature.critical_learning_rate import CriticalLearningRates
from keras_aeos.solvers.tracking import EigenpairTracker
from tools.benchmarking import trainings
from tools.benchmarking.tables import print_rows

# The scan: first in wide steps from a thousandth of the learning rate, then in narrow ones.
_FIRST, _LAST = 1e-3, 1e4
_WIDE, _NARROW = 1.08, 1.0025
_NO_RISE = math.inf


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python tools/critical_learning_rates.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--points", type=int, default=12, help="measurements of each training; default: 12"
    )
    parser.add_argument("--out", type=Path, help="CSV file of all measurements")
    arguments = parser.parse_args()
    tables = {}

    def measured() -> Iterator[dict[str, str]]:
        for name in trainings.TRAININGS:
            tables[name] = measure(name, arguments.points)
            yield as_row(name, tables[name])

    print_rows(measured())
    if arguments.out is not None:
        pd.concat(tables, names=["training"]).droplevel(1).to_csv(arguments.out)


def measure(name: str, num_points: int) -> pd.DataFrame:
    """The learning rates along one training: searched for, scanned for and stable."""
    rows = []
    rates, tracker = CriticalLearningRates(), EigenpairTracker("lanczos", 1e-2, 100)
    for step, (objective, before) in enumerate(trainings.TRAININGS[name].points(num_points)):
        optimizer = objective.model.optimizer
        rate = float(optimizer.learning_rate)
        update = [(v.value - b) / rate for v, b in zip(objective.variables, before, strict=True)]
        loss = objective.first_order.loss_along(objective.batches, before, update)
        critical = rates.measure(objective, before, rate)
        matvec = trainings.preconditioned(objective, optimizer)
        start = tf.zeros([objective.num_parameters])
        largest = float(tracker.solve("A", matvec, start, 1, step).eigenvalues[0])
        rows.append(
            {
                "step": (step + 1) * trainings.SPACING,
                "learning_rate": rate,
                "critical": critical.value if critical.converged else math.nan,
                "scanned": scan(loss, rate),
                "stable": rate * keras_aeos.stability_threshold(optimizer) / largest,
                "num_passes": critical.num_passes,
            }
        )
    return pd.DataFrame(rows)


def as_row(name: str, table: pd.DataFrame) -> dict[str, str]:
    """The numbers of one training in words."""
    names = ("learning_rate", "critical", "scanned", "stable", "num_passes")
    rate, found, exact, stable, passes = (table[column].to_numpy() for column in names)
    inside = (exact > 0.0) & np.isfinite(exact)
    errors = np.abs(found[inside] / exact[inside] - 1.0)
    errors = np.where(np.isnan(errors), np.inf, errors)
    ratio = exact[inside] / stable[inside]
    return {
        "training": name,
        "passes, median (most)": f"{np.median(passes):.0f} ({passes.max():.0f})",
        "error, median": f"{np.median(errors):.1%}" if errors.size else "–",
        "error, 90%": f"{np.quantile(errors, 0.9):.1%}" if errors.size else "–",
        "within 3%": f"{(errors <= 0.03).sum()} of {errors.size}",
        "loss rises at once": f"{(exact == 0.0).sum()}",
        "η_c / η_stable, median (range)": (
            f"{np.median(ratio):.2g} ({ratio.min():.2g} to {ratio.max():.2g})"
            if ratio.size
            else "–"
        ),
        "first η ≥ η_c": first(rate >= exact),
        "first η ≥ η_stable": first(rate >= stable),
    }


def first(reached: np.ndarray) -> str:
    """The update of the first measurement that holds; a dash for none."""
    return str((int(np.argmax(reached)) + 1) * trainings.SPACING) if reached.any() else "–"


def scan(loss: Callable[[float], float], rate: float) -> float:
    """The smallest η at which the loss exceeds that at 0, by looking at one after the other.

    Zero if it does so at the smallest one; infinite if it does so at none.
    """
    at_zero = loss(0.0)

    def first_rise(eta: float, last: float, factor: float) -> float:
        while eta <= last:
            if not loss(eta) <= at_zero:
                return eta
            eta *= factor
        return _NO_RISE

    wide = first_rise(_FIRST * rate, _LAST * rate, _WIDE)
    if wide == _FIRST * rate:
        return 0.0
    if math.isinf(wide):
        return wide
    return first_rise(wide / _WIDE, wide * _NARROW, _NARROW) / math.sqrt(_NARROW)


if __name__ == "__main__":
    main()
