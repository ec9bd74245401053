"""The files of one run.

- `config.yaml`: the configuration, complete and resolved.
- `run.json`: status, stop reason, number of steps, seed, versions, times.
- `trajectory.csv`: every step of a run on a quadratic; such a run writes none of the files below.
- `metrics.csv` and `tensorboard/`: the monitor's measurements.
- `evaluation.csv`: loss and error on the test split, if the run evaluates.
- `translations.csv`: the test sentences of the last evaluation, if the run translates.
- `spectral_density.csv`: measured spectral densities, if the monitor is asked for them.
- `layers.csv`: shares of the layers in the top eigenvector, if it is asked for `edge_layer`.
- `final.weights.h5`: the weights after the last update.
- `second_moments.npz`: the optimizer's second moments after the last update, if it has any and
  they are finite.
- `curves.png`: loss and preconditioned sharpness, drawn at the end of a run.
- `checkpoints/`: from which the run goes on if it is interrupted; removed at its end.

A directory never mixes two runs. A run that was interrupted goes on if the same one is started
again. Otherwise a run that starts in the directory DIR of an earlier one first moves that one's
files to DIR.replaced-1, or the next free number; a run that finds anything else there refuses to
start. `run.json` is the first file written and the last one completed, so that its status tells how
far a run got. While a run is in progress the directory is locked.
"""

import csv
import importlib.metadata
import itertools
import json
import math
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import OmegaConf

from trainers.errors import RunError, UserError
from trainers.schema import Run
from trainers.signals import Interrupted

CONFIG = "config.yaml"
RUN = "run.json"
METRICS = "metrics.csv"
DENSITIES = "spectral_density.csv"
LAYERS = "layers.csv"
EVALUATION = "evaluation.csv"
TRANSLATIONS = "translations.csv"
TRAJECTORY = "trajectory.csv"
TENSORBOARD = "tensorboard"
WEIGHTS = "final.weights.h5"
SECOND_MOMENTS = "second_moments.npz"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
LOCK = ".run.lock"
EVALUATION_COLUMNS = ("step", "training_loss", "test_loss", "test_error")
TRAJECTORY_COLUMNS = (
    *("step", "iterate", "objective"),
    *("first_moment", "second_moment", "gradient_norm_squared"),
)
_FILES = (
    *(METRICS, EVALUATION, DENSITIES, LAYERS, TRANSLATIONS, TRAJECTORY),
    *(WEIGHTS, SECOND_MOMENTS, CURVES, TENSORBOARD, CHECKPOINTS, CONFIG),
)
_REMEDY = "Move its directory away, and start again"
# Nothing is left to do in these statuses; a killed run stays "running".
FINISHED = ("completed", "diverged")
INTERRUPTED = ("running", "interrupted")
# Settings that say where files are and how a run is kept, and not what is computed.
_NOT_COMPUTED = ("output_dir", "checkpoint", "resume")


def start(directory: Path, config: Run, choices: dict[str, str]) -> dict[str, Any]:
    """Move the files of an earlier run aside, write the first new ones and return the record.

    Raises:
        UserError: The directory holds files, but no run, or nothing can be written there.
    """
    settings = asdict(config)
    record = {
        "status": "running",
        "choices": choices,
        **{key: settings[key] for key in ("seed",) if key in settings},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "git_commit": _git_commit(),
    }
    check_free(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _move_aside(directory)
        write(directory, record)
        _write_config(directory, config)
    except OSError as error:
        raise UserError(f"output_dir: {error.strerror}. Received: {directory}") from error
    return record


def _write_config(directory: Path, config: Run) -> None:
    (directory / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))


def go_on(directory: Path, update: int) -> dict[str, Any]:
    """Say that an interrupted run goes on, and return its record.

    Raises:
        UserError: Nothing can be written in the directory.
    """
    record = {key: value for key, value in read(directory).items() if key != "stop_reason"}
    record |= {"status": "running", "resumed_at": [*record.get("resumed_at", []), update]}
    try:
        write(directory, record)
    except OSError as error:
        raise UserError(f"output_dir: {error.strerror}. Received: {directory}") from error
    print(f"the run in {directory} goes on after update {update}", flush=True)
    return record


def check_free(directory: Path) -> None:
    """Check that a run can start in a directory.

    Raises:
        UserError: It is a file, or it holds files, but no run.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"output_dir: expected a directory. Received: {directory}, a file")
    if not directory.exists() or not any(
        path.name not in (LOCK, f"{RUN}.part") for path in directory.iterdir()
    ):
        return
    # Other programs write files of this name as well.
    if not {"status", "choices"} <= read(directory).keys():
        raise UserError(
            "output_dir: expected a new or empty directory, or the directory of an earlier run. "
            f"Received: {directory}, which holds other files"
        )


def is_replaced(path: Path | PurePosixPath) -> bool:
    """Whether a path is within the files of an earlier run that were moved aside."""
    return any(re.search(r"\.replaced-\d+$", part) for part in path.parts)


def _move_aside(directory: Path) -> None:
    """Move the files of an earlier run to the next free name, and say so."""
    # `run.json` goes last: until then the files still are those of a run.
    names = [name for name in (*_FILES, RUN) if (directory / name).exists()]
    if not names:
        return
    here = directory.resolve()
    for number in itertools.count(1):
        aside = here.with_name(f"{here.name}.replaced-{number}")
        try:
            aside.mkdir()
            break
        except FileExistsError:
            continue
    for name in names:
        (directory / name).rename(aside / name)
    print(f"moved the earlier run in {directory} to {aside}", flush=True)


def write(directory: Path, record: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    temporary = directory / f"{RUN}.part"
    try:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        temporary.replace(directory / RUN)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Within this context, no other run can be in a directory.

    Raises:
        UserError: Another run is in it, or nothing can be written there.
    """
    from keras_aeos.callbacks import claim  # with TensorFlow, which takes seconds

    try:
        held = claim.Claim(directory.absolute(), lock=LOCK)
    except claim.Taken as error:
        raise UserError(
            f"output_dir: another run is in progress there, of {error or 'a process'}; this is "
            f"{claim.this_process()}. Wait for its end, or choose another directory. "
            f"Received: {directory}"
        ) from error
    except OSError as error:
        raise UserError(f"output_dir: {error.strerror}. Received: {directory}") from error
    if held.left_by:
        print(f"took {directory} over from {held.left_by}, which left it locked", flush=True)
    try:
        yield
    finally:
        held.release()


@contextmanager
def interruption_recorded(directory: Path, record: dict[str, Any], config: Run) -> Iterator[None]:
    """Within this context, an exception writes `run.json` with the status "interrupted".

    At the end, `config.yaml` is there even if the directory was removed in between.

    Raises:
        RunError: In place of an error of the file system, in one line that says what to do.
    """
    try:
        yield
    except BaseException as error:
        reason = str(error) if isinstance(error, Interrupted) else type(error).__name__
        stopped = {"status": "interrupted", "stop_reason": reason}
        with suppress(OSError):
            write(directory, {**record, **stopped})
        if isinstance(error, OSError):
            raise RunError(
                f"the run in {directory} failed: {error}. Make sure that files can be written "
                "there, and start the same command again: it goes on from the last checkpoint, if "
                "there is one"
            ) from error
        raise
    finally:
        if directory.exists() and not (directory / CONFIG).exists():
            print(
                f"warning: files of the run in {directory} were removed while it ran. What was "
                "written before is missing there. The tables come back if it goes on after an "
                "interruption, the curves of TensorBoard don't",
                file=sys.stderr,
                flush=True,
            )
            with suppress(OSError):
                _write_config(directory, config)


def read(directory: Path) -> dict[str, Any]:
    """Read `run.json`; empty if there is none.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / RUN
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {error}. {_REMEDY}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is not the record of a run: expected entries. {_REMEDY}")
    return record


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
    return _has_status(directory, config, FINISHED)


def is_interrupted(directory: Path, config: Run) -> bool:
    """Whether a run of the same configuration was interrupted here."""
    return _has_status(directory, config, INTERRUPTED)


def _has_status(directory: Path, config: Run, statuses: Sequence[str]) -> bool:
    if read(directory).get("status") not in statuses or not (directory / CONFIG).exists():
        return False
    return _computed(read_config(directory)) == _computed(asdict(config))


def read_config(directory: Path) -> dict[str, Any]:
    """Read `config.yaml`.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / CONFIG
    try:
        return parse_config(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{path} is not the configuration of a run: {message}. {_REMEDY}"
        ) from error


def parse_config(text: str) -> dict[str, Any]:
    """The configuration in the text of a `config.yaml`.

    Raises:
        ValueError: It is none.
    """
    try:
        config: Any = OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # damage surfaces as errors of many types
        raise ValueError(str(error)) from error
    if not isinstance(config, dict) or not isinstance(config.get("optimizer"), dict):
        raise ValueError("it has no section 'optimizer'")
    return config


def _computed(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that determines the result."""
    data = config.get("data")
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "data_dir"}
    # Runs of before have no strategy in their record.
    strategy = config.get("strategy", "none")
    computed = {key: value for key, value in config.items() if key not in _NOT_COMPUTED}
    return {**computed, "data": data, "strategy": strategy}


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
