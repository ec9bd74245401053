"""The bars that measured numbers are held against."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools.benchmarking.reference_solvers import TOLERANCE
from tools.benchmarking.store import DIRECTORY, stored
from tools.benchmarking.tables import cell

# Results of one device by benchmark and case.
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
Number = Callable[[Results], float | None]


@dataclasses.dataclass(frozen=True)
class Bar:
    """The largest value that a number may have.

    Attributes:
        text: What the number is.
        cpu: The bar on a CPU and where the number is; None if there is none.
        gpu: The same on a GPU.
    """

    text: str
    cpu: tuple[float, Number] | None
    gpu: tuple[float, Number] | None


def of(benchmark: str, case: str, label: str) -> Number:
    """A number of a case, which may be stored as it is shown."""

    def number(results: Results) -> float | None:
        value = results.get(benchmark, {}).get(case, {}).get(label)
        return float(value) if isinstance(value, str) else value

    return number


def full_against_a_tenth(results: Results) -> float | None:
    """Time of a cold solve on 50,000 examples, relative to ten times that on 5,000."""
    full = of("solves", "fully_connected_50000", "cold: seconds")(results)
    tenth = of("solves", "fully_connected", "cold: seconds")(results)
    return None if full is None or tenth is None else full / (10.0 * tenth)


def against_peers(case: str, tuned: bool) -> Number:
    """Time of a solve by keras_aeos, traced before, relative to the fastest peer's.

    Only peers within `TOLERANCE` count, with settings that are `tuned` in hindsight or that stop
    by themselves.
    """

    def number(results: Results) -> float | None:
        rows = results.get("peers", {}).get(case, {}).get("solvers", [])
        ours = [r["seconds"] for r in rows if r["setting"] == "traced before"]
        peers = [
            r["seconds"]
            for r in rows
            if r["solver"] != "keras_aeos"
            and r["setting"].startswith("tuned") == tuned
            and r["error"] <= TOLERANCE
        ]
        return ours[0] / min(peers) if ours and peers else None

    return number


def _products() -> list[Bar]:
    names = {
        "fully connected": (1.45, "fully_connected", 1.3, "fully_connected"),
        "convolutional": (2.4, "convolutional", 2.1, "convolutional_5000"),
        "transformer": (1.75, "transformer", 2.0, "transformer_6"),
        "residual": (1.85, "residual", 2.2, "resnet50"),
    }
    return [
        Bar(
            f"product / gradient, {text}",
            (cpu, of("curvature", on_cpu, "product")),
            (gpu, of("curvature", on_gpu, "product / gradient by XLA")),
        )
        for text, (cpu, on_cpu, gpu, on_gpu) in names.items()
    ]


def _solves() -> list[Bar]:
    cold, text = "cold: gradients", "cold certified λ₁ to 1e-3, gradients"
    bars = [
        Bar(
            f"{text}, fully connected",
            (16.0, of("solves", "fully_connected", cold)),
            (20.0, of("solves", "fully_connected", cold)),
        )
    ]
    for name in ("fully_connected_50000", "convolutional_5000", "transformer_6", "resnet50"):
        bars.append(Bar(f"{text}, {name}", None, (20.0, of("solves", name, cold))))
    bars.append(Bar("the same, seconds on 50,000 / 10 × 5,000", None, (1.2, full_against_a_tenth)))
    reads = "cold: host reads"
    return [*bars, Bar("host reads of it", None, (3.0, of("solves", "fully_connected", reads)))]


def _rows() -> list[Bar]:
    texts = {
        "later rows of the default monitor, gradients": ("row", "gradients, median"),
        "the same after a minute of training": ("rows", "in gradients"),
    }
    names = {
        "fully connected": ("fully_connected", "fully_connected"),
        "convolutional": ("convolutional", "convolutional_5000"),
        "transformer": ("transformer", "transformer_6"),
        "residual": ("residual", "resnet50"),
    }
    return [
        Bar(
            f"{text}, {name}",
            (6.0, of(benchmark, on_cpu, label)),
            (6.0, of(benchmark, on_gpu, label)),
        )
        for text, (benchmark, label) in texts.items()
        for name, (on_cpu, on_gpu) in names.items()
    ]


def _peers() -> list[Bar]:
    bars = []
    for case in ("fully_connected", "convolutional"):
        for tuned, which in (
            (False, "peer that stops by itself"),
            (True, "peer tuned in hindsight"),
        ):
            limit = (1.0, against_peers(case, tuned))
            bars.append(Bar(f"time / fastest {which}, {case}", limit, limit))
    return bars


BARS = [*_products(), *_solves(), *_rows(), *_peers()]


def draw(directory: Path = DIRECTORY) -> str:
    """The table of all bars: what was measured, and whether it holds."""
    devices = {kind: _results(kind, directory) for kind in ("cpu", "gpu")}
    header = [part for name in ("CPU", "GPU") for part in (f"{name}: bar", "measured", "holds")]
    lines = ["| | " + " | ".join(header) + " |", "| --- |" + " ---: | ---: | --- |" * 2]
    for bar in BARS:
        cells: list[str] = []
        for kind, limit in (("cpu", bar.cpu), ("gpu", bar.gpu)):
            cells += _judged(limit, devices[kind])
        lines.append(f"| {bar.text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _judged(limit: tuple[float, Number] | None, results: Results) -> list[str]:
    if limit is None:
        return ["–", "–", "–"]
    bar, number = limit
    value = number(results)
    if value is None:
        return [f"{bar:g}", "not run", "–"]
    return [f"{bar:g}", cell("{:.2f}", value), "yes" if value <= bar else "**no**"]


def _results(kind: str, directory: Path) -> Results:
    """The results on the first device of a kind."""
    results: dict[str, Any] = {}
    for benchmark in ("curvature", "solves", "row", "rows", "peers"):
        for file in stored(benchmark, directory):
            if file["device"]["kind"] == kind and benchmark not in results:
                results[benchmark] = {
                    name: case["results"]
                    for name, case in file["cases"].items()
                    if "results" in case
                }
    return results
