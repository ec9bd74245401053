"""Configurations composed by Hydra, checked and typed; every mistake is worded in one line."""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from trainers import schema
from trainers.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"
# What a file may set in Hydra's own section. A command line may set the first two.
HYDRA_KEYS = ("hydra.mode", EXCLUDED, "hydra.sweeper.params")

# Hydra composes, and nothing else: it starts no plugin, logs nothing, and does not search Python
# packages that a YAML file names.
_UNUSED = ("output", "launcher", "sweeper", "help", "hydra_help", "hydra_logging", "job_logging")
_SETTINGS = (
    *(f"~hydra/{group}" for group in (*_UNUSED, "env")),
    f"hydra.searchpath=['file://{CONFIGS}']",
)
# Set by Hydra itself, whatever a file says.
_BY_HYDRA = (
    *("hydra.overrides", "hydra.runtime"),
    *("hydra.job.override_dirname", "hydra.job.config_name"),
)
# Keys that name files. A leading ~ is the home directory.
_PATHS = ("output_dir", "data.data_dir", "data.vocabulary_dir", "optimizer.second_moments")
# Nodes of a file, with those that an alias repeats.
_MAX_NODES = 100_000


@dataclasses.dataclass(frozen=True)
class Composed:
    """A configuration as Hydra composes it: `config` without, `whole` with Hydra's own section."""

    config: DictConfig
    whole: DictConfig

    @property
    def hydra(self) -> DictConfig:
        """Hydra's own section."""
        return self.whole.hydra

    def asks_for_sweep(self) -> bool:
        """Whether `hydra.mode` asks for a sweep.

        Raises:
            UserError: It refers to a key that isn't there.
        """
        try:
            return self.hydra.mode == RunMode.MULTIRUN
        except OmegaConfBaseException as error:
            raise UserError(_explain(error, [])) from error


def compose(name: str | None, directory: Path, overrides: list[Override]) -> Composed:
    """Compose a configuration of a directory.

    Only overrides that can change which files are read make Hydra read them again.

    Raises:
        UserError: A file, a name, a key or a value can't be used.
    """
    values = [o for o in overrides if _is_value(o)]
    groups = tuple(str(o.input_line) for o in overrides if not _is_value(o))
    files = (*CONFIGS.rglob("*.yaml"), *directory.glob("*.yaml"), *directory.glob("*/*.yaml"))
    stamps = tuple((path, path.lstat().st_mtime_ns, path.lstat().st_size) for path in files)
    base = _composed(name, directory, groups, (stamps, tuple(schema.OPTIMIZERS)))
    config = base.config.copy()
    try:
        # The function by which Hydra itself applies overrides.
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except Exception as error:  # a value can bring up errors of any type
        raise UserError(_explain(error, [str(o.input_line) for o in overrides])) from error
    return Composed(config, base.whole)


@functools.lru_cache(maxsize=32)
def _composed(name: str | None, directory: Path, overrides: tuple[str, ...], _: Any) -> Composed:
    _register_schema(directory)
    try:
        with initialize_config_dir(str(directory), version_base="1.3"):
            whole = hydra_compose(name, [*overrides, *_SETTINGS], return_hydra_config=True)
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        known = sorted({*names(CONFIGS / group), *names(directory / group), *_stored(group)})
        what = f"option '{option}' of group '{group}'" if group else f"configuration '{option}'"
        hint = did_you_mean(option, known)
        raise UserError(f"unknown {what}.{hint} Known: {', '.join(known)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"a file is not valid YAML: {_one_line(error)}") from error
    except Exception as error:  # a file can bring up errors of any type
        raise UserError(_explain(error, list(overrides))) from error
    if name is not None:
        _check_hydra(whole)
    config = whole.copy()
    with open_dict(config):
        del config["hydra"]
    return Composed(config, whole)


def _is_value(override: Override) -> bool:
    """Whether an override sets a value, and can't be the choice of a group's option."""
    key = override.key_or_group
    scalars = {f.name for run in schema.RUNS.values() for f in dataclasses.fields(run)}
    plain = ("." in key and "/" not in key) or key in scalars - set(_sections())
    return plain and override.package is None and not key.startswith("hydra")


def _register_schema(directory: Path) -> None:
    """Make the schema known to Hydra, and each optimizer that has no file in `directory`."""
    store = ConfigStore.instance()
    for name, run in schema.RUNS.items():
        store.store(group="schema", name=name, node=run, package="_global_")
    for group, sections in schema.GROUPS.items():
        for name, section in sections.items():
            store.store(group=f"schema/{group}", name=name, node=section)
    # An optimizer needs no file of its own. Where there is one, it begins with the schema.
    files = {*names(CONFIGS / "optimizer"), *names(directory / "optimizer")}
    for name in schema.OPTIMIZERS.keys() - files:
        store.store(group="optimizer", name=name, node=schema.OPTIMIZERS[name])


def typed(composed: Composed) -> schema.Config | schema.Quadratic:
    """Turn the configuration that Hydra composed into the typed one, with every value checked.

    Raises:
        UserError: A key is unknown or missing, or a value can't be used.
    """
    plain = composed.config
    if OmegaConf.get_type(plain) not in schema.RUNS.values():
        known = " or ".join(f"schema/{name}" for name in schema.RUNS)
        raise UserError(f"the defaults list of the configuration must begin with {known}")
    HydraConfig.instance().set_config(composed.whole)  # what ${hydra:...} refers to
    try:
        _resolve(plain)
        _check_keys(plain)
        config = cast(schema.Config | schema.Quadratic, OmegaConf.to_object(plain))
    except UserError:
        raise
    except InterpolationKeyError as error:
        raise UserError(f"{error.full_key}: {_first_line(error)}") from error
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(_one_line(error).rstrip(".")) from error
    for key in _PATHS:
        section, _, name = key.rpartition(".")
        holder = getattr(config, section, None) if section else config
        if isinstance(path := getattr(holder, name, None), str):
            setattr(holder, name, os.path.expanduser(path))
    schema.check(config)
    return config


def check_file(path: Path) -> None:
    """Check a file before Hydra reads it: that it is YAML, of a bounded size, and a mapping.

    Raises:
        UserError: The file can't be read, or has a section or a setting that can't be used.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        size = _size(root, {}) if root is not None else 0
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read: {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{path}: expected less deeply nested values") from error
    if size > _MAX_NODES:
        raise UserError(f"{path}: expected at most {_MAX_NODES} values, aliases written out")
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected keys and values, as in 'steps: 200'")
    for key, value in root.value:
        plain = isinstance(value, (yaml.ScalarNode, yaml.SequenceNode))
        if key.value in _sections() and plain and value.tag != "tag:yaml.org,2002:null":
            got = value.value if isinstance(value, yaml.ScalarNode) else "a list"
            raise UserError(f"{_for_section(key.value, got)} (in {path.name})")
        if key.value == "hydra" and not isinstance(value, yaml.MappingNode):
            raise UserError(_pinned("hydra", path.name))
        if key.value == "hydra":
            for inner, _ in value.value:
                if inner.value == "searchpath":
                    raise UserError(_pinned("hydra.searchpath", path.name))


def _check_hydra(whole: DictConfig) -> None:
    """Check that the files left Hydra's own section alone, but for what they may set.

    Raises:
        UserError: A key is set that could run code, move files or has no effect.
    """
    given, expected = _leaves(whole.hydra, "hydra"), _pristine()
    for key in sorted(given.keys() | expected.keys()):
        if not _within(key, (*HYDRA_KEYS, *_BY_HYDRA)) and given.get(key) != expected.get(key):
            raise UserError(_pinned(key, "a file"))


def check_hydra_override(key: str, line: str) -> None:
    """Check an override of Hydra's own section.

    Raises:
        UserError: The key can't be set.
    """
    if re.split(r"[./@]", key)[0] == "hydra" and key not in HYDRA_KEYS[:2]:
        raise UserError(_pinned(key, "command line") + f" Received: {line}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a question; empty if none is near."""
    near = get_close_matches(word, [name for name in known if name != word], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def names(directory: Path) -> list[str]:
    """The configurations in a directory."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _pinned(key: str, place: str) -> str:
    return (
        f"{key}: expected no setting of Hydra's own section but {', '.join(HYDRA_KEYS)} ({place}); "
        "others could run code, or have no effect."
    )


@functools.cache
def _pristine() -> dict[str, Any]:
    """The leaves of Hydra's own section that no file has changed."""
    return _leaves(compose(None, CONFIGS, []).hydra, "hydra")


def _leaves(section: Any, key: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(section) if OmegaConf.is_config(section) else section
    if plain == "???":
        return {}
    if not isinstance(plain, dict) or not plain:
        return {key: plain}
    return {
        k: v for name, part in plain.items() for k, v in _leaves(part, f"{key}.{name!s}").items()
    }


def _within(key: str, parents: Iterable[str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes below a node, with those that aliases repeat."""
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise RecursionError
        return sizes[id(node)]
    sizes[id(node)] = -1
    children = node.value if isinstance(node.value, list) else []
    parts = [
        part for child in children for part in (child if isinstance(child, tuple) else [child])
    ]
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _explain(error: Exception, overrides: list[str]) -> str:
    """Describe a composition error in one line: the key, its place, the nearest known key."""
    in_file = re.match(r"In '([^']+)'", str(error))
    place = f"{in_file.group(1)}.yaml" if in_file else "command line"
    cause = next((e for e in _chain(error) if getattr(e, "full_key", None)), None)
    if cause is None:
        no_such = re.match(r"Could not override '([^']+)'. No match in the defaults", str(error))
        if no_such:
            key = no_such.group(1)
            given = next((o for o in overrides if o.startswith(f"{key}=")), f"{key}=")
            if key in _sections():
                return _for_section(key, given.partition("=")[2])
            return f"this configuration has no group '{key}' ({place})"
        what = _one_line(error) or type(error).__name__
        return f"the configuration can't be composed: {what.rstrip('.')} ({place})"
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(str(cause.full_key), cause.object_type, place)
    value = re.search(r"is not a subclass of \w+\. value: (.*)", _first_line(cause))
    if value and cause.full_key in _sections():
        return f"{_for_section(cause.full_key, value.group(1))} ({place})"
    return f"{cause.full_key}: {_first_line(cause)} ({place})"


def _for_section(key: str, value: str) -> str:
    """What to write instead of a single value for a section."""
    remedy = {
        "optimizer": "choose one with optimizer=NAME on the command line, or with "
        "'- override optimizer: NAME' in the defaults list of a file",
        "model": "choose a network by --config-name, or with '- schema/model/NAME@model' in the "
        "defaults list of a file",
        "data": "name a data set with data.name=NAME",
    }.get(key, f"set its keys, as in {key}.{_keys(_section_type(key))[0]}=VALUE")
    return f"{key}: expected a section of keys; {remedy}. Received: {key}={value}"


def _sections() -> list[str]:
    """The names of the sections of a run."""
    return [f.name for f in dataclasses.fields(schema.Config) if dataclasses.is_dataclass(f.type)]


def _section_type(key: str) -> Any:
    return next(f.type for f in dataclasses.fields(schema.Config) if f.name == key)


def _unknown_key(full_key: str, section_type: Any, place: str) -> str:
    section, _, key = full_key.rpartition(".")
    siblings = _keys(section_type)
    where = f"section '{section}'" if section else "the configuration"
    hint = did_you_mean(key, siblings)
    owners = [name for name, kind in schema.GROUPS.get(section, {}).items() if key in _keys(kind)]
    if owners:
        hint = f" It is a key of {', '.join(owners)}."
    elif not hint:
        elsewhere = [k for k in _all_keys() if k.endswith(f".{key}") and k != full_key]
        hint = f" Did you mean '{elsewhere[0]}'?" if elsewhere else ""
    return f"unknown key '{key}' in {where} ({place}).{hint} Known: {', '.join(siblings)}"


def _resolve(config: DictConfig) -> None:
    """Replace references by what they refer to, with its type checked."""
    try:
        OmegaConf.resolve(config)
    except InterpolationKeyError:
        OmegaConf.to_container(config, resolve=True)  # which names the key
        raise


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


def _stored(group: str) -> Iterable[str]:
    """Options of a group that need no file."""
    return schema.OPTIMIZERS if group == "optimizer" else ()


def _chain(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _one_line(error: BaseException) -> str:
    """An error's message without line breaks, at most 300 characters of it."""
    return " ".join(str(error).split())[:300]
