"""Finished runs, read from their directories, and how figures name their settings."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from omegaconf import OmegaConf

from trainers import run_directory
from trainers.errors import UserError

SYMBOLS = {"learning_rate": r"\eta", "beta_1": r"\beta_1", "beta_2": r"\beta_2"}


@dataclass(frozen=True)
class Run:
    """One finished run: its directory, `config.yaml` and `run.json`."""

    directory: Path
    config: dict[str, Any]
    record: dict[str, Any]

    def setting(self, name: str) -> Any:
        """A value of the `optimizer` section; NaN if it has none of this name."""
        return self.config["optimizer"].get(name, math.nan)


AnyRun = TypeVar("AnyRun", bound=Run)


def find_runs(root: Path, *names: str) -> list[Run]:
    """Find the runs of the first configuration of these that has any, wherever below `root`.

    Raises:
        UserError: There are none, or one is not finished.
    """
    found = _records_by_name(root, names)
    return [_finished(directory, record) for directory, record in found[0]]


def find_all_runs(root: Path, *names: str) -> list[Run]:
    """Find the runs of all of these configurations, wherever below `root`.

    Raises:
        UserError: There are none, or one is not finished.
    """
    found = _records_by_name(root, names)
    return [_finished(directory, record) for runs in found for directory, record in runs]


def _records_by_name(root: Path, names: Sequence[str]) -> list[list[tuple[Path, dict[str, Any]]]]:
    """Directories and records of the runs of each of the configurations that has any."""
    if not root.is_dir():
        raise UserError(f"no such directory. Received: {root}")
    records = {path.parent: _read_record(path) for path in sorted(root.rglob(run_directory.RUN))}
    if not records:
        raise UserError(f"no runs below {root}: expected directories that hold a run.json")
    found = [
        [item for item in records.items() if item[1]["choices"].get("config_name") == name]
        for name in names
    ]
    if not any(found):
        raise UserError(
            f"none of the {len(records)} runs below {root} is of {' or '.join(names)}; make them "
            f"with 'python -m trainers --config-name {names[0]}'"
        )
    return [runs for runs in found if runs]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = run_directory.read(path.parent)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return {"choices": {}, **record}


def _finished(directory: Path, record: dict[str, Any]) -> Run:
    if record.get("status") not in run_directory.FINISHED:
        raise UserError(
            f"{directory} is half-written (status: {record.get('status')}); let it finish, or "
            "start its command again, which goes on where it stopped"
        )
    path = _needed(directory, run_directory.CONFIG)
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    return Run(directory, config, record)


def read_table(directory: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file of a run that must have certain columns.

    Raises:
        UserError: There is no such file, or it is not such a table.
    """
    path = _needed(directory, name)
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are of this type
        raise UserError(f"{path} is not a table of measurements: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(missing)}")
    return table


def _needed(directory: Path, name: str) -> Path:
    if not (directory / name).exists():
        raise UserError(f"{directory} is incomplete: it has no {name}")
    return directory / name


def ordered(runs: Sequence[AnyRun], varied: Sequence[str]) -> list[AnyRun]:
    """Runs in the order of some settings, which must tell them apart.

    Raises:
        UserError: Two runs have the same settings.
    """
    in_order = sorted(runs, key=lambda run: [run.setting(name) for name in varied])
    for run, following in pairwise(in_order):
        if all(run.setting(name) == following.setting(name) for name in varied):
            raise UserError(
                f"{run.directory} and {following.directory} have the same {' and '.join(varied)}; "
                "name a directory that holds one of them"
            )
    return in_order


def label(run: Run, names: Iterable[str]) -> str:
    """Settings of a run as mathtext."""
    return ", ".join(f"${SYMBOLS[name]} = {mathtext(run.setting(name))}$" for name in names)


def mathtext(value: float) -> str:
    r"""A number as mathtext; small ones as a power of ten.

    >>> print(mathtext(0.95), mathtext(1e-4), mathtext(3.2e-4))
    0.95 10^{-4} 3.2 \times 10^{-4}
    """
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if float(mantissa) == 1 else rf"{float(mantissa):g} \times {power}"
