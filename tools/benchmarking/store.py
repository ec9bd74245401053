"""Measured numbers as JSON files, one for each benchmark and device, with what they depend on."""

import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "benchmark"
# Distributions whose versions are stored, where they are installed.
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "scipy",
    "jax",
    "torch",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "pyhessian",
)
# Digits that are stored of a number.
_NUM_DIGITS = 5


class Store:
    """The results of one benchmark on this device, in `DIRECTORY/DEVICE/BENCHMARK.json`.

    A file maps each case, for example a network, to its numbers or its error and to the date, the
    command, the seconds, the versions and the state of the source that they belong to.

    Args:
        benchmark: Name of the benchmark.
        directory: Where the directories of all devices are.
    """

    def __init__(self, benchmark: str, directory: Path = DIRECTORY) -> None:
        self._benchmark = benchmark
        self._device = device()
        self.path = directory / self._device["id"] / f"{benchmark}.json"

    def finished(self) -> set[str]:
        """Cases that were measured with the present source and versions."""
        present = {"source": source(), "versions": versions()}
        return {
            name
            for name, case in self._read().items()
            if "results" in case and all(case[key] == value for key, value in present.items())
        }

    def keep(self, case: str, seconds: float, **outcome: Any) -> None:
        """Write what a case gave, `results=` (a dictionary of numbers) or `error=` (a text).

        An error doesn't replace numbers of the same source.
        """
        if "error" in outcome and case in self.finished():
            return
        cases = self._read()
        cases[case] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": f"python tools/benchmark.py {self._benchmark} --cases {case}",
            "seconds": seconds,
            "commit": commit(),
            "source": source(),
            "versions": versions(),
            **outcome,
        }
        text = json.dumps(
            _rounded({"benchmark": self._benchmark, "device": self._device, "cases": cases}),
            indent=1,
            ensure_ascii=False,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(self.path)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))["cases"]


def stored(benchmark: str, directory: Path = DIRECTORY) -> list[dict[str, Any]]:
    """The files of a benchmark, CPUs first."""
    paths = sorted(directory.glob(f"*/{benchmark}.json"))
    files = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(files, key=lambda file: (file["device"]["kind"], file["device"]["id"]))


def device() -> dict[str, Any]:
    """What is measured on: the first GPU, otherwise the processor's cores."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        return {
            "id": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            "kind": "gpu",
            "name": name,
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"id": f"cpu-{cores}", "kind": "cpu", "name": _processor(), "cores": cores}


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit; empty if this is none."""
    return _output("git", "rev-parse", "--short=10", "HEAD")


def source() -> str:
    """Digest of the package's modules: results of another digest are out of date."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "keras_aeos").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _rounded(value: Any) -> Any:
    """The same with rounded numbers; JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{_NUM_DIGITS}g}") if math.isfinite(value) else None
    return value


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = re.findall(r"model name\s*: (.*)", text)
    return names[0] if names else platform.machine()


def _output(*command: str) -> str:
    """First line that a program prints; empty if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.split("\n")[0].strip()
