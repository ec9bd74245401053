"""An optimizer on ``f(x) = curvature · x²/2``, from its configuration to its files.

The stability theory describes a single eigenvector of the Hessian; here the optimizer itself runs.
"""

import csv
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_aeos import array_files
from keras_aeos.stability import Recurrence
from trainers import run_directory, schema
from trainers.checkpoint import Checkpoints, Clock, assign, last_checkpoint, unusable, values_of
from trainers.errors import UserError
from trainers.optimizers import build_optimizer
from trainers.signals import Interrupted, signals


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


@dataclass(frozen=True)
class State:
    """A run after some updates, from which it goes on.

    Attributes:
        update: Number of updates done.
        seconds: Wall time that they took.
        result: The entries of the record so far.
        variables: The iterate, and the variables of the optimizer.
    """

    update: int
    seconds: float
    result: dict[str, Any]
    variables: list[np.ndarray]

    def write(self, path: Path) -> None:
        """Write it to a file, whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        facts = {"update": self.update, "seconds": self.seconds, "result": self.result}
        arrays = {str(index): value for index, value in enumerate(self.variables)}
        array_files.write(path, arrays, json.dumps(facts))


def read(path: Path) -> State:
    """Read the state in a file.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is damaged or of another kind.
    """
    arrays, text = array_files.read(path)
    try:
        facts = json.loads(text)
        update, seconds, result = int(facts["update"]), float(facts["seconds"]), facts["result"]
        return State(update, seconds, dict(result), list(arrays.values()))
    except (KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"it is no checkpoint: {type(error).__name__}: {error}") from error


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
        checkpoints = Checkpoints(directory, read)
        saved = None
        if config.resume != "never" and run_directory.is_interrupted(directory, config):
            saved = checkpoints.newest()
        trajectory = _Trajectory(config, curvature, saved)
        if saved is None:
            record = run_directory.start(directory, config, choices)
        else:
            record = run_directory.go_on(directory, saved.update)
        record.update(curvature=curvature, stability_threshold=threshold)
        with run_directory.interruption_recorded(directory, record, config), signals.held_back():
            clock = Clock(config.checkpoint, saved.seconds if saved else 0.0)
            record.update(_run(config, trajectory, directory, checkpoints, clock))
            record["wall_seconds"] = round(clock.seconds, 1)
            run_directory.write(directory, record)
            checkpoints.remove()
    return Outcome(record)


def recurrence(section: schema.Optimizer) -> Recurrence:
    """The recurrence of ``x`` under the optimizer of an `optimizer` section with P = 1."""
    optimizer = build_optimizer(section)
    return optimizer.momentum().recurrence(section.learning_rate, optimizer.weight_decay or 0.0)


def _run(
    config: schema.Quadratic,
    trajectory: "_Trajectory",
    directory: Path,
    checkpoints: Checkpoints[State],
    clock: Clock,
) -> dict[str, Any]:
    """Write the trajectory; return its entries in the record.

    Raises:
        Interrupted: If a signal asks for the end.
    """
    result: dict[str, Any] = {"status": "completed", "stop_reason": "all steps done"}
    result |= trajectory.result
    written: Path | None = None
    with _rows(directory / run_directory.TRAJECTORY, trajectory.update) as file:
        writer = csv.DictWriter(file, run_directory.TRAJECTORY_COLUMNS, lineterminator="\n")
        if not trajectory.update:
            writer.writeheader()
        for row in trajectory.until(config.steps):
            result["steps"] = step = row["step"]
            diverged = [k for k, v in row.items() if v is not None and not math.isfinite(v)]
            if diverged:
                result["status"] = "diverged"
                result["stop_reason"] = f"{diverged[0]} became {row[diverged[0]]}"
                break
            writer.writerow(row)
            result.setdefault("first_objective", row["objective"])
            result["last_objective"] = row["objective"]
            if not 0 < step < config.steps:
                continue
            number = signals.pending
            if number is not None or clock.is_due(step):
                file.flush()
                os.fsync(file.fileno())
                present = State(step, clock.seconds, result, trajectory.values())
                written = checkpoints.try_to_keep(present) or written
                clock.restart()
            if number is not None:
                raise Interrupted(
                    number, f"after update {step} of {config.steps}; {last_checkpoint(written)}"
                )
    return result


def _rows(path: Path, number: int) -> TextIO:
    """The file of the trajectory with its first rows, open for those that follow.

    Raises:
        UserError: It has fewer rows.
    """
    if not number:
        return path.open("w", newline="")
    file = path.open("r+" if path.exists() else "x+", newline="")
    lines = list(itertools.islice(file, 1 + number))
    if len(lines) <= number:
        file.close()
        raise unusable(f"{path} has fewer rows")
    file.seek(sum(len(line.encode()) for line in lines))
    file.truncate()
    return file


class _Trajectory:
    """The iterates of a run, from its start or from a state on.

    Args:
        config: The configuration.
        curvature: The curvature.
        saved: The state; None at the start.

    Attributes:
        update: Number of updates done before.
        result: The entries of the record so far.

    Raises:
        UserError: The state is not one of this run.
    """

    def __init__(self, config: schema.Quadratic, curvature: float, saved: State | None) -> None:
        self.update = saved.update if saved else 0
        self.result = saved.result if saved else {}
        self._curvature = curvature
        floatx = keras.config.floatx()
        # Keras makes the variable of the learning rate of this type.
        keras.config.set_floatx("float64")
        try:
            self._iterate = keras.Variable(config.start, dtype="float64")
            self._optimizer = build_optimizer(config.optimizer)
        finally:
            keras.config.set_floatx(floatx)
        self._optimizer.build([self._iterate])
        self._set_moments(config)
        if saved is not None:
            try:
                assign(self._variables, saved.variables)
            except (TypeError, ValueError) as error:
                raise unusable(error) from error

    def _set_moments(self, config: schema.Quadratic) -> None:
        optimizer = self._optimizer
        # AMSGrad's running maximum starts at ν₀.
        maxima = getattr(optimizer, "maximum_second_moments", [])
        for slots, value in (
            (optimizer.first_moments, config.first_moment),
            ([*optimizer.second_moments, *maxima], config.second_moment),
        ):
            for slot in slots:
                if value is not None:
                    slot.assign(value)

    @property
    def _variables(self) -> Sequence[keras.Variable]:
        return [self._iterate, *self._optimizer.variables]

    def values(self) -> list[np.ndarray]:
        """The values of all that determines the next iterates."""
        return values_of(self._variables)

    def until(self, steps: int) -> Iterator[dict[str, Any]]:
        """The rows of the steps up to `steps`, the first one that of the present iterate."""
        for step in range(self.update, steps + 1):
            x = _number(self._iterate)
            gradient = self._curvature * x
            yield {
                "step": step,
                "iterate": x,
                "objective": self._curvature * x * x / 2.0,
                "first_moment": _only(self._optimizer.first_moments),
                "second_moment": _only(self._optimizer.second_moments),
                "gradient_norm_squared": gradient * gradient,
            }
            if step == steps:
                return
            self._optimizer.apply(
                [keras.ops.convert_to_tensor(gradient, "float64")], [self._iterate]
            )


def _only(slots: list[keras.Variable]) -> float | None:
    return _number(slots[0]) if slots else None


def _number(variable: keras.Variable) -> float:
    return float(keras.ops.convert_to_numpy(variable))
