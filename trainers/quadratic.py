"""An optimizer on ``f(x) = curvature · x²/2``, from its configuration to its files.

The stability theory describes a single eigenvector of the Hessian; here the optimizer itself runs.
"""

import csv
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from keras_aeos.stability import Recurrence
from trainers import run_directory, schema
from trainers.errors import UserError
from trainers.optimizers import build_optimizer


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `record` is the content of its `run.json`."""

    record: dict[str, Any]

    def line(self, directory: Path) -> str:
        """One line for a job of a sweep."""
        return f"{directory}: {self.record['stop_reason']}; {self.sentence()}"

    def report(self, directory: Path) -> str:
        """The report on a single run: where its file is and what it shows."""
        seconds = self.record["wall_seconds"]
        return "\n".join(
            (
                f"{self.record['steps']} steps in {seconds:.0f} s: {self.record['stop_reason']}",
                f"trajectory: {directory / run_directory.TRAJECTORY}",
                self.sentence(),
            )
        )

    def sentence(self) -> str:
        """The result in words."""
        return (
            "objective {first_objective:.6g} at the start, {last_objective:.6g} at the end; "
            "curvature {curvature:.6g}, stability threshold {stability_threshold:.6g} for P = 1"
        ).format(**self.record)


def train(config: schema.Quadratic, directory: Path, choices: dict[str, str]) -> Outcome:
    """Run the optimizer and write every file of the run.

    `trajectory.csv` has the columns `run_directory.TRAJECTORY_COLUMNS` and one row per step, from
    step 0 at the start. It ends before the first number that is not finite. A row has the gradient
    at its iterate and the moments that led there; moments that the optimizer lacks are empty.

    Args:
        config: The checked configuration.
        directory: Where the files go.
        choices: Name of the configuration and options of its groups, for the record.

    Raises:
        UserError: The first numbers overflow, or the directory holds other files.
    """
    threshold = recurrence(config.optimizer).stability_threshold()
    curvature = cast(float, config.curvature)
    if config.edge_ratio is not None:
        curvature = config.edge_ratio * threshold
    gradient = curvature * config.start
    if not math.isfinite(gradient * config.start) or not math.isfinite(gradient * gradient):
        raise UserError(
            "start: expected an objective and a squared gradient that float64 can hold. "
            f"Received: start={config.start} at curvature {curvature}"
        )
    with run_directory.claimed(directory):
        record = run_directory.start(directory, config, choices)
        record.update(curvature=curvature, stability_threshold=threshold)
        started = time.monotonic()
        with run_directory.interruption_recorded(directory, record):
            record.update(_run(config, curvature, directory / run_directory.TRAJECTORY))
            record["wall_seconds"] = round(time.monotonic() - started, 1)
            run_directory.write(directory, record)
    return Outcome(record)


def recurrence(section: schema.Optimizer) -> Recurrence:
    """The recurrence of ``x`` under the optimizer of an `optimizer` section with P = 1."""
    optimizer = build_optimizer(section)
    return optimizer.momentum().recurrence(section.learning_rate, optimizer.weight_decay or 0.0)


def _run(config: schema.Quadratic, curvature: float, path: Path) -> dict[str, Any]:
    """Write the trajectory; return its entries in the record."""
    result: dict[str, Any] = {"status": "completed", "stop_reason": "all steps done"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, run_directory.TRAJECTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in itertools.islice(_trajectory(config, curvature), config.steps + 1):
            result["steps"] = row["step"]
            diverged = [k for k, v in row.items() if v is not None and not math.isfinite(v)]
            if diverged:
                result["status"] = "diverged"
                result["stop_reason"] = f"{diverged[0]} became {row[diverged[0]]}"
                break
            writer.writerow(row)
            result.setdefault("first_objective", row["objective"])
            result["last_objective"] = row["objective"]
    return result


def _trajectory(config: schema.Quadratic, curvature: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of the trajectory, endlessly."""
    floatx = keras.config.floatx()
    # Keras makes the variable of the learning rate of this type.
    keras.config.set_floatx("float64")
    try:
        iterate = keras.Variable(config.start, dtype="float64")
        optimizer = build_optimizer(config.optimizer)
    finally:
        keras.config.set_floatx(floatx)
    optimizer.build([iterate])
    # AMSGrad's running maximum starts at ν₀.
    maxima = getattr(optimizer, "maximum_second_moments", [])
    for slots, value in (
        (optimizer.first_moments, config.first_moment),
        ([*optimizer.second_moments, *maxima], config.second_moment),
    ):
        for slot in slots:
            if value is not None:
                slot.assign(value)
    for step in itertools.count():
        x = _number(iterate)
        gradient = curvature * x
        yield {
            "step": step,
            "iterate": x,
            "objective": curvature * x * x / 2.0,
            "first_moment": _only(optimizer.first_moments),
            "second_moment": _only(optimizer.second_moments),
            "gradient_norm_squared": gradient * gradient,
        }
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")], [iterate])


def _only(slots: list[keras.Variable]) -> float | None:
    return _number(slots[0]) if slots else None


def _number(variable: keras.Variable) -> float:
    return float(keras.ops.convert_to_numpy(variable))
