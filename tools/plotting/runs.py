"""Finished runs, read from directories and archives, and labels for their settings."""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from tools.plotting import archives
from trainers import run_directory
from trainers.errors import UserError

SYMBOLS = {"learning_rate": r"\eta", "beta_1": r"\beta_1", "beta_2": r"\beta_2"}
# On disk, or within an archive.
RunDirectory = Path | zipfile.Path
# Figures by name: how their runs are found and read, and how they become a figure and its table.
ReadRuns = Callable[[Path, str], list[Any]]
Draw = Callable[[list[Any]], tuple[Figure, pd.DataFrame]]
Figures = dict[str, tuple[ReadRuns, Draw]]


@dataclass(frozen=True)
class Run:
    """One finished run: its directory, `config.yaml` and `run.json`."""

    directory: RunDirectory
    config: dict[str, Any]
    record: dict[str, Any]

    def setting(self, name: str) -> Any:
        """A value of the `optimizer` section; NaN if it is missing."""
        return self.config["optimizer"].get(name, math.nan)


AnyRun = TypeVar("AnyRun", bound=Run)


def find_runs(root: Path, *names: str) -> list[Run]:
    """Find the runs of the first of these configurations that has any.

    Args:
        root: Directory that is searched for runs and archives of runs, or an archive.
        *names: Names of the configurations.

    Raises:
        UserError: There are none, or one is not finished.
    """
    found = _records_by_name(root, names)
    return [_finished(directory, record) for directory, record in found[0]]


def find_all_runs(root: Path, *names: str) -> list[Run]:
    """Find the runs of all of these configurations, as `find_runs` does.

    Raises:
        UserError: There are none, or one is not finished.
    """
    found = _records_by_name(root, names)
    return [_finished(directory, record) for runs in found for directory, record in runs]


Record = tuple[RunDirectory, dict[str, Any]]


def _records_by_name(root: Path, names: Sequence[str]) -> list[list[Record]]:
    """Group the directories and records of runs by configuration, without those that have none."""
    records = [(directory, _read_record(directory)) for directory in _run_directories(root)]
    if not records:
        raise UserError(f"no runs below {root}: expected directories that hold a run.json")
    found = [
        [(directory, record) for directory, record in records if _configuration(record) == name]
        for name in names
    ]
    if not any(found):
        raise UserError(
            f"none of the {len(records)} runs below {root} is of {' or '.join(names)}; make them "
            f"with 'python -m trainers --config-name {names[0]}'"
        )
    return [runs for runs in found if runs]


def _run_directories(root: Path) -> list[RunDirectory]:
    """Find run directories below `root`, first on disk, then in archives."""
    if root.is_file():
        return [*archives.run_directories(root)]
    if not root.is_dir():
        raise UserError(f"no such directory or archive. Received: {root}")
    records = sorted(root.rglob(run_directory.RUN))
    found: list[RunDirectory] = [
        path.parent for path in records if not run_directory.is_replaced(path.relative_to(root))
    ]
    for archive in sorted(root.rglob(f"*{archives.SUFFIX}")):
        found += archives.run_directories(archive)
    return found


def _read_record(directory: RunDirectory) -> dict[str, Any]:
    path = directory / run_directory.RUN
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("choices", {}), dict):
        raise UserError(f"{path} is not the record of a run: expected entries, with 'choices'")
    return {"choices": {}, **record}


def _configuration(record: dict[str, Any]) -> str | None:
    return record["choices"].get("config_name")


def _finished(directory: RunDirectory, record: dict[str, Any]) -> Run:
    if record.get("status") not in run_directory.FINISHED:
        raise UserError(
            f"{directory} is not finished (status: {record.get('status')}); let it finish, or "
            "start its command again to resume it"
        )
    path = _needed(directory, run_directory.CONFIG)
    try:
        config = run_directory.parse_config(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path} is not the configuration of a run: {message}") from error
    wrong = [
        key
        for key, value in config["optimizer"].items()
        if key not in ("name", "second_moments") and not isinstance(value, (float, int, type(None)))
    ]
    wrong += [key for key in ("data", "model") if not isinstance(config.get(key, {}), dict)]
    if wrong:
        raise UserError(f"{path} is damaged: the value of {', '.join(wrong)} can't be used")
    return Run(directory, config, record)


def read_table(directory: RunDirectory, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file of a run that must have certain columns.

    Raises:
        UserError: The file is missing or is not such a table.
    """
    path = _needed(directory, name)
    try:
        content = path.read_bytes()
        table = pd.read_csv(io.BytesIO(content))
    except (OSError, ValueError) as error:  # pandas' own errors are of the latter type
        raise UserError(f"{path} is not a table of measurements: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(missing)}")
    if not content.endswith(b"\n"):
        raise UserError(f"{path} is damaged: its last line was cut")
    if table.empty and name == run_directory.TRAJECTORY:
        raise UserError(f"{path} is damaged: expected a row of step 0")
    text = [c for c in columns if len(table) and not pd.api.types.is_numeric_dtype(table[c])]
    if text:
        raise UserError(f"{path} is damaged: expected numbers in the column {', '.join(text)}")
    if "step" in columns and table["step"].duplicated().any():
        raise UserError(f"{path} is damaged: expected each step once")
    return table


def _needed(directory: RunDirectory, name: str) -> RunDirectory:
    path = directory / name
    if not path.exists():
        raise UserError(f"{directory} is incomplete: it has no {name}")
    return path


def ordered(runs: Sequence[AnyRun], varied: Sequence[str]) -> list[AnyRun]:
    """Sort runs by settings that tell them apart.

    Raises:
        UserError: Two runs have the same settings.
    """
    in_order = sorted(runs, key=lambda run: [run.setting(name) for name in varied])
    for run, following in pairwise(in_order):
        if all(run.setting(name) == following.setting(name) for name in varied):
            raise UserError(
                f"{run.directory} and {following.directory} have the same {' and '.join(varied)}; "
                "name a directory or an archive that holds only one of them"
            )
    return in_order


def settings_label(run: Run, names: Iterable[str]) -> str:
    """Name settings of a run and their values in mathtext."""
    return ", ".join(f"${SYMBOLS[name]} = {mathtext(run.setting(name))}$" for name in names)


def mathtext(value: float) -> str:
    r"""Write a number in mathtext, a small one as a power of ten.

    >>> print(mathtext(0.95), mathtext(1e-4), mathtext(3.2e-4))
    0.95 10^{-4} 3.2 \times 10^{-4}
    """
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if float(mantissa) == 1 else rf"{float(mantissa):g} \times {power}"
