"""The files of one run.

- `config.yaml`: the configuration, complete and resolved.
- `run.json`: status, stop reason, number of steps, seed, versions, times.
- `trajectory.csv`: every step of a run on a quadratic; such a run writes none of the files below.
- `metrics.csv` and `tensorboard/`: the monitor's measurements.
- `evaluation.csv`: loss and error on the test split, if the run evaluates.
- `translations.csv`: the test sentences of the last evaluation, if the run translates.
- `spectral_density.csv`: measured spectral densities, if the monitor is asked for them.
- `final.weights.h5`: the weights after the last update.
- `second_moments.npz`: the optimizer's second moments after the last update, if it has any and
  they are finite.
- `curves.png`: loss and preconditioned sharpness, drawn at the end of a run.

A directory never mixes two runs. A run that starts in the directory of an earlier one replaces its
files; a run that finds anything else there refuses to start. `run.json` is the first file written
and the last one completed, so that its status tells how far a run got.
"""

import csv
import importlib.metadata
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainers.errors import UserError
from trainers.schema import Run

CONFIG = "config.yaml"
RUN = "run.json"
METRICS = "metrics.csv"
DENSITIES = "spectral_density.csv"
EVALUATION = "evaluation.csv"
TRANSLATIONS = "translations.csv"
TRAJECTORY = "trajectory.csv"
TENSORBOARD = "tensorboard"
WEIGHTS = "final.weights.h5"
SECOND_MOMENTS = "second_moments.npz"
CURVES = "curves.png"
EVALUATION_COLUMNS = ("step", "training_loss", "test_loss", "test_error")
TRAJECTORY_COLUMNS = (
    *("step", "iterate", "objective"),
    *("first_moment", "second_moment", "gradient_norm_squared"),
)
_REPLACED = (
    *(METRICS, EVALUATION, DENSITIES, TRANSLATIONS, TRAJECTORY, WEIGHTS, SECOND_MOMENTS, CURVES),
)
# Nothing is left to do in these statuses; a killed run stays "running".
FINISHED = ("completed", "diverged")


def start(directory: Path, config: Run, choices: dict[str, str]) -> dict[str, Any]:
    """Remove the files of an earlier run, write the first new ones and return the run's record.

    Raises:
        UserError: The directory holds files, but no run.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / RUN).exists():
        raise UserError(
            "output_dir: expected a new or empty directory, or the directory of an earlier run. "
            f"Received: {directory}, which holds other files"
        )
    directory.mkdir(parents=True, exist_ok=True)
    settings = asdict(config)
    record = {
        "status": "running",
        "choices": choices,
        **{key: settings[key] for key in ("seed",) if key in settings},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "git_commit": _git_commit(),
    }
    write(directory, record)
    for name in _REPLACED:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / TENSORBOARD, ignore_errors=True)
    (directory / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    return record


def write(directory: Path, record: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    temporary = directory / f"{RUN}.part"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(directory / RUN)


@contextmanager
def interruption_recorded(directory: Path, record: dict[str, Any]) -> Iterator[None]:
    """Within this context, an exception writes `run.json` with the status "interrupted"."""
    try:
        yield
    except BaseException as error:
        stopped = {"status": "interrupted", "stop_reason": type(error).__name__}
        write(directory, {**record, **stopped})
        raise


def read(directory: Path) -> dict[str, Any]:
    """Read `run.json`; empty if there is none."""
    path = directory / RUN
    return json.loads(path.read_text()) if path.exists() else {}


def last_evaluation(directory: Path) -> dict[str, float] | None:
    """The finite numbers in the last row of `evaluation.csv`; None without a row."""
    path = directory / EVALUATION
    if not path.exists():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = {name: float(value) for name, value in rows[-1].items()} if rows else {}
    return {name: value for name, value in values.items() if math.isfinite(value)} or None


def is_finished(directory: Path, config: Run) -> bool:
    """Whether a run of the same configuration has finished here."""
    if read(directory).get("status") not in FINISHED or not (directory / CONFIG).exists():
        return False
    before = OmegaConf.to_container(OmegaConf.load(directory / CONFIG))
    return _computed(before) == _computed(asdict(config))


def _computed(config: Any) -> dict[str, Any]:
    """The part of a configuration that determines the result."""
    data = {key: value for key, value in config.get("data", {}).items() if key != "data_dir"}
    return {**config, "data": data, "output_dir": None}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("keras_aeos", "keras", "tensorflow", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git_commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    result = subprocess.run(  # noqa: S603 - fixed arguments
        [git, "rev-parse", "--quiet", "--verify", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None
