"""The command line: every job is composed and checked before the first one runs.

A mistake in an argument or in a YAML file ends in one line within a second, whether it concerns
the first job of a sweep or the last. Hydra composes the configurations; this module checks them and
words the errors.
"""

import argparse
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from trainers import schema
from trainers.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

# Hydra adds no log files or copies of the configuration to a run's directory, and does not search
# Python packages that a YAML file names.
_SETTINGS = (
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    f"hydra.searchpath=['file://{CONFIGS}']",
    "hydra.job.chdir=false",
    "hydra.sweep.dir=${output_dir}",
    "hydra.sweep.subdir=${hydra:job.override_dirname}",
    "hydra.job.config.override_dirname.item_sep=__",
)
# Parts of Hydra's own section that can name code to call. The command line may choose among
# installed plugins there; a file may not change them.
_PINNED = ("callbacks", "hydra_logging", "job_logging", "launcher", "sweeper", "searchpath")
# Keys that say where files are and not what is computed.
_PLACES = ("output_dir", "data.data_dir")
# Bytes that common file systems allow in a file's name.
_MAX_NAME = 255


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options; `overrides` holds the arguments for Hydra."""
    parser = _Parser(prog="python -m trainers", allow_abbrev=False)
    known = ", ".join(_names(CONFIGS))
    parser.add_argument("--config-name", "-cn", required=True, help=f"what to run: {known}")
    parser.add_argument(
        "--config-dir", "-cd", default=str(CONFIGS), help="a directory of your own configurations"
    )
    parser.add_argument(
        "--multirun", "-m", action="store_true", help="run every combination of values"
    )
    parser.add_argument("--cfg", choices=("job", "hydra", "all"), help="print, and run nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    return parser.parse_intermixed_args(arguments)


def hydra_arguments(options: argparse.Namespace) -> list[str]:
    """Check every job that `options` ask for and return the arguments for Hydra.

    Raises:
        UserError: The first key, value, file or name that can't be used.
    """
    directory = Path(options.config_dir).resolve()
    if not directory.is_dir():
        raise UserError(f"--config-dir: no such directory. Received: {options.config_dir}")
    _register_schema(directory)
    overrides = _parse_overrides(options.overrides)
    settings = list(_SETTINGS)
    single = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    own = [str(o.input_line) for o in overrides if o.is_hydra_override()]
    with initialize_config_dir(str(directory), version_base="1.3"):
        first = _compose(options.config_name, directory, single + settings)
        unnamed = [*first.hydra.job.config.override_dirname.exclude_keys, *_PLACES]
        settings.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]")
        settings.append(f"hydra.run.dir='{_run_directory(overrides, unnamed)}'")
        pristine = _compose(None, directory, own + list(_SETTINGS))
        swept = options.multirun or first.hydra.mode == RunMode.MULTIRUN
        if swept:
            jobs: Iterable[tuple[str, ...]] = _jobs(overrides, first.hydra.sweeper.get("params"))
        elif len(single) == len(overrides):
            jobs = [tuple(single)]
        else:
            several = next(o.input_line for o in overrides if o.is_sweep_override())
            raise UserError(f"several values need --multirun. Received: {several}")
        for job in jobs:
            composed = _compose(options.config_name, directory, list(job) + settings)
            _check_pinned(composed.hydra, pristine.hydra)
            typed(composed)
            _check_name(composed.hydra.sweep.subdir if swept else composed.hydra.run.dir, unnamed)
    flags = ["--multirun"] if options.multirun else ["--cfg", options.cfg] if options.cfg else []
    return ["--config-name", options.config_name, *flags, *options.overrides, *settings]


def typed(composed: DictConfig) -> schema.Config | schema.Quadratic:
    """Turn the configuration that Hydra composed into the typed one, with every value checked.

    Raises:
        UserError: A key is unknown or missing, or a value can't be used.
    """
    if OmegaConf.get_type(composed) not in schema.RUNS.values():
        known = " or ".join(f"schema/{name}" for name in schema.RUNS)
        raise UserError(f"the defaults list of the configuration must begin with {known}")
    plain = composed.copy()
    OmegaConf.set_struct(plain, False)
    if plain.pop("hydra", None) is not None:
        HydraConfig.instance().set_config(composed)  # what ${hydra:...} refers to
    try:
        _check_keys(plain)
        config = cast(schema.Config | schema.Quadratic, OmegaConf.to_object(plain))
    except InterpolationKeyError as error:
        raise UserError(f"{error.full_key}: {_first_line(error)}") from error
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    schema.check(config)
    return config


def _register_schema(directory: Path) -> None:
    store = ConfigStore.instance()
    for name, run in schema.RUNS.items():
        store.store(group="schema", name=name, node=run, package="_global_")
    for group, sections in schema.GROUPS.items():
        for name, section in sections.items():
            store.store(group=f"schema/{group}", name=name, node=section)
    # An optimizer needs no file of its own. Where there is one, it begins with the schema.
    files = {*_names(CONFIGS / "optimizer"), *_names(directory / "optimizer")}
    for name in schema.OPTIMIZERS.keys() - files:
        store.store(group="optimizer", name=name, node=schema.OPTIMIZERS[name])


def _parse_overrides(lines: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for line in lines:
        try:
            parsed += OverridesParser.create().parse_overrides([line])
        except HydraException as error:
            raise UserError(f"expected key=value on the command line. Received: {line}") from error
    return parsed


def _jobs(overrides: list[Override], params: DictConfig | None) -> Iterable[tuple[str, ...]]:
    """The overrides of each job; a key on the command line replaces a file's sweep over it."""
    from_file = _parse_overrides([f"{key!s}={value}" for key, value in (params or {}).items()])
    values: dict[str, list[str]] = {}
    for override in [*from_file, *overrides]:
        key = override.get_key_element()
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in map(str, override.sweep_string_iterator())]
        else:
            values[key] = [str(override.input_line)]
    return itertools.product(*values.values())


def _run_directory(overrides: list[Override], unnamed: Sequence[str]) -> str:
    """The directory of a single run: with settings of its own it gets one beside the default."""
    keys = {o.key_or_group for o in overrides if not o.is_hydra_override()}
    if "output_dir" in keys or keys <= set(unnamed):
        return "${output_dir}"
    return "${output_dir}__${hydra:job.override_dirname}"


def _check_name(directory: str, unnamed: Sequence[str]) -> None:
    """Check that the name of the run's directory, which holds its settings, is not too long."""
    size = max((len(part.encode()) for part in Path(directory).parts), default=0)
    if size > _MAX_NAME:
        exclude = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)},KEY]"
        raise UserError(
            f"the directory of the run is named after its settings, in {size} bytes; at most "
            f"{_MAX_NAME} are possible. Set output_dir and leave a long setting KEY out of the "
            f"name with '{exclude}', or move it to a file. Received: {directory}"
        )


def _compose(name: str | None, directory: Path, overrides: list[str]) -> DictConfig:
    try:
        return compose(name, overrides=overrides, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        known = sorted({*_names(CONFIGS / group), *_names(directory / group), *_stored(group)})
        what = f"option '{option}' of group '{group}'" if group else f"configuration '{option}'"
        hint = _did_you_mean(option, known)
        raise UserError(f"unknown {what}.{hint} Known: {', '.join(known)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"a file is not valid YAML: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, [o for o in overrides if o not in _SETTINGS])) from error


def _explain(error: Exception, overrides: list[str]) -> str:
    """Describe a composition error in one line: the key, its place, the nearest known key."""
    in_file = re.match(r"In '([^']+)'", str(error))
    place = f"{in_file.group(1)}.yaml" if in_file else "command line"
    cause = next((e for e in _chain(error) if getattr(e, "full_key", None)), None)
    if cause is None:
        no_such = re.match(r"Could not override '([^']+)'. No match in the defaults", str(error))
        if no_such:
            return f"this configuration has no group '{no_such.group(1)}' ({place})"
        return f"{_first_line(error)}. Received: {' '.join(overrides)}"
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(str(cause.full_key), cause.object_type, place)
    return f"{cause.full_key}: {_first_line(cause)} ({place})"


def _unknown_key(full_key: str, section_type: Any, place: str) -> str:
    section, _, key = full_key.rpartition(".")
    siblings = _keys(section_type)
    hint = _did_you_mean(key, siblings)
    if not hint:
        elsewhere = [known for known in _all_keys() if known.endswith(f".{key}")]
        hint = f" Did you mean '{elsewhere[0]}'?" if elsewhere else ""
    where = f"section '{section}'" if section else "the configuration"
    return f"unknown key '{key}' in {where} ({place}).{hint} Known: {', '.join(siblings)}"


def _check_keys(section: DictConfig, prefix: str = "") -> None:
    """Find keys that `+key=value` added or `~key` removed."""
    known = _keys(OmegaConf.get_type(section))
    present = [str(key) for key in section]
    for key in present:
        if key not in known:
            raise UserError(_unknown_key(prefix + key, OmegaConf.get_type(section), "command line"))
        if not OmegaConf.is_missing(section, key) and OmegaConf.is_dict(section[key]):
            _check_keys(section[key], f"{prefix}{key}.")
    for key in known:
        if key not in present or OmegaConf.is_missing(section, key):
            raise UserError(f"{prefix}{key}: a value is missing")


def _check_pinned(hydra: DictConfig, pristine: DictConfig) -> None:
    for name in _PINNED:
        given, expected = (_plain(section[name]) for section in (hydra, pristine))
        if name == "sweeper":
            given["params"] = expected["params"] = None
        if given != expected:
            raise UserError(f"hydra.{name}: a YAML file may not set this; it could run code")


def _plain(section: Any) -> Any:
    return OmegaConf.to_container(section) if OmegaConf.is_config(section) else section


def _keys(section_type: Any) -> list[str]:
    if not dataclasses.is_dataclass(section_type):
        return []
    return [item.name for item in dataclasses.fields(section_type)]


def _all_keys() -> list[str]:
    """Every key of every section, whatever the configuration chooses."""
    sections = [(item.name, item.type) for item in dataclasses.fields(schema.Config)]
    for group, options in schema.GROUPS.items():
        sections += [(group, section) for section in options.values()]
    return [f"{name}.{key}" for name, section in sections for key in _keys(section)]


def _names(directory: Path) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _stored(group: str) -> Iterable[str]:
    """Options of a group that need no file."""
    return schema.OPTIMIZERS if group == "optimizer" else ()


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _chain(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
