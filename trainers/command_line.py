"""The command line: every job is composed and checked before the first one runs.

A mistake in an argument or in a YAML file ends in one line within a second, whether it concerns
the first job of a sweep or the last. `trainers/composition.py` composes one job.
"""

import argparse
import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from trainers import schema
from trainers.composition import (
    CONFIGS,
    EXCLUDED,
    Composed,
    check_file,
    check_hydra_override,
    compose,
    typed,
)
from trainers.errors import UserError
from trainers.launchers import LAUNCHERS
from trainers.overview import overview

# Keys that say where files are and how a run is kept, and not what is computed.
_PLACES = ("output_dir", "data.data_dir", "checkpoint.freq", "checkpoint.minutes", "resume")
# Bytes that common file systems allow in a file's name.
_MAX_NAME = 255
_MAX_JOBS = 1_000


@dataclass(frozen=True)
class Job:
    """One run: its configuration, its directory and the groups' options for its record."""

    config: schema.Config | schema.Quadratic
    directory: Path
    choices: dict[str, Any]


@dataclass(frozen=True)
class Jobs:
    """What a command asks for.

    Attributes:
        jobs: The runs, in order.
        in_sweep: Whether they are a sweep, which skips finished runs.
    """

    jobs: list[Job]
    in_sweep: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(" ".join(message.split()))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options; `overrides` holds the settings. Without arguments, print the help."""
    parser = _Parser(
        prog="python -m trainers",
        description="Train a network, or a sweep of them, and measure while it trains.",
        epilog=overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        *("--config-name", "-cn"), metavar="NAME", required=True, help="what to run, listed below"
    )
    parser.add_argument(
        *("--config-dir", "-cd"),
        metavar="DIR",
        default=str(CONFIGS),
        help="a directory of your own configurations",
    )
    parser.add_argument(
        "--multirun", "-m", action="store_true", help="run every combination of values"
    )
    parser.add_argument("--job", type=int, help="run only the job of a sweep with this number")
    parser.add_argument("--launcher", choices=tuple(LAUNCHERS), help="run a sweep's jobs at once")
    parser.add_argument("--launcher-settings", help="keys and values of the launcher, in YAML")
    parser.add_argument(
        "--cfg", choices=("job",), help="print the complete configuration, and run nothing"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, as in steps=100"
    )
    if not arguments:
        parser.print_help()
        raise SystemExit(0)
    return parser.parse_intermixed_args(arguments)


def jobs(options: argparse.Namespace) -> Jobs:
    """Compose and check every job that `options` ask for; nothing is written.

    Raises:
        UserError: The first key, value, file or name that can't be used.
    """
    if not os.path.isdir(options.config_dir):
        raise UserError(f"--config-dir: no such directory. Received: {options.config_dir}")
    directory = Path(options.config_dir).resolve()
    name = options.config_name.removesuffix(".yaml")
    if not name.isprintable():
        raise UserError(f"--config-name: expected a name. Received: {options.config_name!r}")
    file = os.path.join(directory, f"{name}.yaml")
    if os.path.lexists(file):
        check_file(Path(file))
    overrides = parse_overrides(options.overrides)
    single = [o for o in overrides if not o.is_sweep_override()]
    first = compose(name, directory, single)
    unnamed = [*_excluded(first), *_PLACES]
    swept = options.multirun or first.asks_for_sweep()
    if swept:
        combinations = combined(overrides, _swept_by_file(first))
    elif len(single) == len(overrides):
        combinations = [tuple(str(o.input_line) for o in single)]
    else:
        several = next(o.input_line for o in overrides if o.is_sweep_override())
        raise UserError(f"several values need --multirun. Received: {several}")
    found = []
    for lines in combinations:
        settings = parse_overrides(lines)
        composed = compose(name, directory, settings) if swept else first
        config = typed(composed)
        groups = composed.hydra.runtime.choices.items()
        choices = {k: v for k, v in groups if not k.startswith("hydra/")}
        place = _directory(config.output_dir, settings, unnamed, swept)
        found.append(Job(config, place, {"config_name": name, **choices}))
    _check_directories([job.directory for job in found], unnamed)
    for option in ("job", "launcher", "launcher_settings"):
        if getattr(options, option) is not None and not swept:
            raise UserError(f"--{option.replace('_', '-')}: expected a sweep")
    if options.launcher_settings is not None and options.launcher is None:
        raise UserError("--launcher-settings: expected --launcher as well")
    if options.job is not None:
        if not 0 <= options.job < len(found):
            raise UserError(
                f"--job: expected a number from 0 to {len(found) - 1}. Received: {options.job}"
            )
        found = [found[options.job]]
    return Jobs(found, swept)


def of_sweep(options: argparse.Namespace) -> list[str]:
    """The arguments of a sweep, without those on launching."""
    several = ["--multirun"] if options.multirun else []
    name, directory = options.config_name, options.config_dir
    return ["--config-name", name, "--config-dir", directory, *several, *options.overrides]


def parse_overrides(lines: Sequence[str]) -> list[Override]:
    """Parse settings of the form key=value.

    Raises:
        UserError: One has another form, or sets what can't be set.
    """
    parsed: list[Override] = []
    for line in lines:
        # Hydra's grammar has no word that begins with ~, which stands for the home directory.
        quoted = re.sub(r"^([^=~]+=)(~[^'\"]*)$", r"\1'\2'", line)
        try:
            [override] = OverridesParser.create().parse_overrides([quoted])
        except (HydraException, ValueError, RecursionError) as error:
            raise UserError(f"expected key=value on the command line. Received: {line}") from error
        check_hydra_override(override.key_or_group, line)
        if override.is_sweep_override() and override.key_or_group.startswith("hydra"):
            raise UserError(f"expected one value for a setting of Hydra. Received: {line}")
        parsed.append(override)
    return parsed


def combined(
    overrides: Sequence[Override], from_file: Sequence[Override] = ()
) -> list[tuple[str, ...]]:
    """The overrides of each job; a key on the command line replaces a file's sweep over it.

    Raises:
        UserError: The values of a key can't be listed, or there are too many jobs.
    """
    values: dict[str, list[str]] = {}
    for override in [*from_file, *overrides]:
        key = override.get_key_element()
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in _values(override)]
        elif override.is_delete():
            values[key] = [str(override.input_line)]
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    count = math.prod(map(len, values.values()))
    if count > _MAX_JOBS:
        raise UserError(f"expected a sweep of at most {_MAX_JOBS} jobs. Received: {count} jobs")
    return list(itertools.product(*values.values()))


def _values(override: Override) -> list[str]:
    line = override.input_line
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        begin, end, step = (float(v) for v in (sweep.start, sweep.stop, sweep.step))  # type: ignore[arg-type]
        if step == 0 or not (end - begin) / step <= _MAX_JOBS:
            raise UserError(f"expected a range of 1 to {_MAX_JOBS} values. Received: {line}")
    try:
        found = list(override.sweep_string_iterator())
    except (HydraException, ValueError, TypeError) as error:
        raise UserError(
            f"expected values that can be listed, as in 1,2. Received: {line}"
        ) from error
    if not found:
        raise UserError(f"expected one value or more. Received: {line}")
    return found


def _excluded(composed: Composed) -> list[str]:
    """Keys that a file or the command line leaves out of the name of a run's directory."""
    section: Any = OmegaConf.to_container(composed.hydra.job.config.override_dirname)
    keys = section.get("exclude_keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{EXCLUDED}: expected a list of keys. Received: {keys}")
    return keys


def _swept_by_file(composed: Composed) -> list[Override]:
    """The sweep of a file: values by key in `hydra.sweeper.params`."""
    if OmegaConf.is_missing(composed.hydra, "sweeper") or composed.hydra.sweeper is None:
        return []
    section: Any = OmegaConf.to_container(composed.hydra.sweeper)
    params = section.get("params") or {}
    single = isinstance(params, dict) and not any(
        v is None or isinstance(v, (list, dict)) for v in params.values()
    )
    if not single:
        raise UserError(
            "hydra.sweeper.params: expected keys with their values, as in 'steps: 1,2'. "
            f"Received: {params}"
        )
    return parse_overrides([f"{key}={value}" for key, value in params.items()])


def _directory(
    output_dir: str, settings: Sequence[Override], unnamed: Sequence[str], swept: bool
) -> Path:
    """A run's directory: named after its settings, within a sweep's or beside the default."""
    lines = [(o.key_or_group, str(o.input_line)) for o in settings]
    lines = [(key, line) for key, line in lines if not key.startswith("hydra.")]
    name = "__".join(sorted(line for key, line in lines if key not in unnamed))
    if swept:
        place = Path(output_dir, name)
    elif not name or "output_dir" in dict(lines):
        place = Path(output_dir)
    else:
        place = Path(f"{output_dir}__{name}")
    return Path.cwd() / place


def _check_directories(directories: list[Path], unnamed: Sequence[str]) -> None:
    """Check that each run can have a directory of its own.

    Raises:
        UserError: A name is too long, two are the same, or a directory can't be made there.
    """
    for place in directories:
        if not str(place).isprintable():
            raise UserError(f"output_dir: expected printable characters. Received: {str(place)!r}")
        size = max(len(part.encode()) for part in place.parts)
        if size > _MAX_NAME:
            raise UserError(
                f"the directory of the run is named after its settings, in {size} bytes; at most "
                f"{_MAX_NAME} are possible. Set output_dir and leave a long setting KEY out of the "
                f"name with '{EXCLUDED}=[{','.join(unnamed)},KEY]', or move it to a file. "
                f"Received: {place}"
            )
        try:
            above = next(p for p in (place, *place.parents) if os.path.lexists(p))
        except OSError as error:
            raise UserError(f"output_dir: {error.strerror}. Received: {place}") from error
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"output_dir: can't write in {above}. Received: {place}")
    seen: set[Path] = set()
    for place in directories:
        if place in seen:
            raise UserError(
                "expected a directory for each job of the sweep: two jobs have the same settings, "
                f"or differ in keys that {EXCLUDED} leaves out of its name. Received: {place}"
            )
        seen.add(place)
