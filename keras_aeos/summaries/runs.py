"""Runs, read from the files that a monitor or a trainer leaves."""

import dataclasses
import functools
import io
import itertools
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from keras_aeos.summaries.edge import EdgeSummary, claim, edge_summary, loss_kind

_METRICS, _CONFIG, _RECORD = "metrics.csv", "config.yaml", "run.json"
# Of an earlier run, moved aside by a trainer.
_REPLACED = re.compile(r"\.replaced-\d+$")
_NEEDED = ("step", "loss", "preconditioned_sharpness", "stability_threshold", "edge_ratio")
_TABLE_ROW = re.compile(r"^\| ([^|]+) \| (.*) \|$", re.MULTILINE)
# Bytes of all members of an archive together; a run of the paper's length has a few millions.
_MAX_UNPACKED = 2**30
AnyPath = Path | zipfile.Path


class RunError(ValueError):
    """A run can't be read; the message says why in one line."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: A short name, different from that of the other runs.
        directory: Its directory, on disk or in an archive.
        metrics: The rows of `metrics.csv`.
        config: A trainer's configuration; empty without one.
        record: A trainer's `run.json`; empty without one.
        card: What the monitor's text card says, a value for each name; empty without one.
    """

    name: str
    directory: AnyPath
    metrics: pd.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)

    @property
    def optimizer(self) -> str:
        """Name of the optimizer, "unknown" if nothing tells it."""
        named = self.config.get("optimizer", {}).get("name")
        return named or self.card.get("optimizer", "unknown").split("(")[0]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Arguments of the optimizer, as far as they are known."""
        if self.config:
            return {k: v for k, v in self.config.get("optimizer", {}).items() if k != "name"}
        found = re.findall(r"(\w+)=([^,()]+)", self.card.get("optimizer", ""))
        return {key: _number(value) for key, value in found}

    @functools.cached_property
    def summary(self) -> EdgeSummary:
        """Where the run reached the edge and how close it stayed."""
        loss = self.config.get("loss") or loss_kind(self.card.get("loss", ""))
        claimed = claim(self.optimizer, self.settings)
        return edge_summary(self.metrics, loss, self.record.get("first_loss"), claimed)


def read_runs(places: Iterable[Path]) -> list[Run]:
    """Read the runs in directories and archives, however deep; those moved aside are left out.

    Raises:
        RunError: A place has no run, or one can't be read.
    """
    directories: dict[str, AnyPath] = {}
    for place in places:
        found = _directories(place)
        if not found:
            raise RunError(f"no run in {place}: expected a directory with a {_METRICS}")
        directories |= {str(directory): directory for directory in found}
    contents = [_read(directory) for directory in directories.values()]
    contents.sort(key=lambda run: _order(run.config))
    configs = [run.config for run in contents]
    own = [_directory_name(run.directory) for run in contents]
    names = short_names(configs, own) if all(configs) else numbered(own)
    return [dataclasses.replace(run, name=name) for name, run in zip(names, contents, strict=True)]


def _directories(place: Path) -> list[AnyPath]:
    if place.is_dir():
        found = [p for p in place.rglob(_METRICS) if not _is_replaced(p.relative_to(place))]
        inside = [d for p in sorted(place.rglob("*.zip")) for d in _directories(p)]
        return [*(p.parent for p in sorted(found)), *inside]
    if place.suffix == ".zip" and place.is_file():
        try:
            file = zipfile.ZipFile(place)
        except (OSError, zipfile.BadZipFile) as error:
            raise RunError(f"{place} is not an archive of runs: {error}") from error
        if sum(member.file_size for member in file.infolist()) > _MAX_UNPACKED:
            raise RunError(f"{place} holds more than 1 GiB")
        paths = [PurePosixPath(n) for n in sorted(file.namelist()) if n.endswith(_METRICS)]
        return [
            zipfile.Path(file, f"{p.parent}/" if p.parent.name else "")
            for p in paths
            if p.name == _METRICS and not _is_replaced(p)
        ]
    raise RunError(f"no such directory or archive of runs: {place}")


def _is_replaced(path: Path | PurePosixPath) -> bool:
    return any(_REPLACED.search(part) for part in path.parts)


def _read(directory: AnyPath) -> Run:
    path = directory / _METRICS
    try:
        metrics = pd.read_csv(io.BytesIO(path.read_bytes()))
        record = _content(directory / _RECORD)
        record = json.loads(record) if record else {}
        config = _yaml(_content(directory / _CONFIG))
    except RunError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        message = " ".join(str(error).split())
        raise RunError(f"{directory} is damaged: {message}") from error
    missing = [name for name in _NEEDED if name not in metrics]
    if missing:
        raise RunError(f"{path} is no table of measurements: it lacks {', '.join(missing)}")
    text = [name for name in _NEEDED if not pd.api.types.is_numeric_dtype(metrics[name])]
    if text and len(metrics):
        raise RunError(f"{path} is damaged: expected numbers in {', '.join(text)}")
    sections = (config.get(name) or {} for name in ("optimizer", "data", "model"))
    if not all(isinstance(part, dict) for part in (record, *sections)):
        raise RunError(f"{directory} is damaged: {_RECORD} or {_CONFIG} is not that of a run")
    return Run("", directory, metrics, config, record, _card(directory))


def _content(path: AnyPath) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _yaml(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise RunError(
            "the run of a trainer has a config.yaml, for which PyYAML is needed; install it with "
            "pip install '.[report]' in the checkout"
        ) from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{_CONFIG}: {error}") from error
    return config if isinstance(config, dict) else {}


def _card(directory: AnyPath) -> dict[str, str]:
    """The tables of the text card in the monitor's newest event file."""
    if not isinstance(directory, Path):
        return {}
    files = sorted((directory / "tensorboard" / "measured").glob("events.out.tfevents.*"))
    text = _first_text(files[-1]) if files else ""
    return {key: value.replace("\\|", "|") for key, value in _TABLE_ROW.findall(text)}


def _first_text(path: Path) -> str:
    """The text in the first events of a file: a length, its checksum, the event, its checksum."""
    from tensorboard.compat.proto import event_pb2

    with path.open("rb") as file:
        for _ in range(2):
            head = file.read(12)
            if len(head) < 12:
                break
            (length,) = struct.unpack("<Q", head[:8])
            if length > path.stat().st_size:
                break
            try:
                event = event_pb2.Event.FromString(file.read(length))
            except Exception:  # damage; protobuf's versions have errors of several types
                break
            file.read(4)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "text":
                    return value.tensor.string_val[0].decode()
    return ""


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def short_names(configs: Sequence[dict[str, Any]], otherwise: Sequence[str]) -> list[str]:
    """The settings in which runs differ, as ``eta=1e-4``; other names if there are none.

    >>> configs = [{"optimizer": {"name": "adam", "learning_rate": rate}} for rate in (1e-4, 3e-4)]
    >>> short_names(configs, ["one", "two"])
    ['eta=1e-4', 'eta=3e-4']
    """
    flat = [_flat(config) for config in configs]
    keys = [
        key
        for key in dict.fromkeys(key for settings in flat for key in settings)
        if len({repr(settings.get(key)) for settings in flat}) > 1
    ]
    if not keys:
        return numbered(otherwise)
    return numbered([",".join(_setting(k, f[k]) for k in keys if k in f) for f in flat])


def numbered(names: Iterable[str]) -> list[str]:
    """The names, with a number where there are several of the same."""
    different: list[str] = []
    for name in names:
        further = (f"{name}-{number}" for number in itertools.count(2))
        candidates = itertools.chain([name], further)
        different.append(next(free for free in candidates if free not in different))
    return different


def _directory_name(directory: AnyPath) -> str:
    return directory.name or str(directory)


def _order(config: dict[str, Any]) -> list[tuple[str, float, str]]:
    """A key that sorts runs by their settings, numbers by size."""
    return [
        (key, value if isinstance(value, (int, float)) else math.inf, str(value))
        for key, value in _flat(config).items()
    ]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in ("output_dir", "data_dir"):
            flat[prefix + key] = value
    return flat


def _setting(key: str, value: Any) -> str:
    short = {"learning_rate": "eta"}.get(key.rpartition(".")[2], key.rpartition(".")[2])
    return str(value) if short == "name" else f"{short}={short_number(value)}"


def short_number(value: Any) -> str:
    """A value as a short text.

    >>> [short_number(v) for v in (1e-4, 3.2e-4, 0.95, 200, None)]
    ['1e-4', '3.2e-4', '0.95', '200', 'None']
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
