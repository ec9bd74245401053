"""The columns of a row, each stated once: its name, its meaning and where it is read."""

import dataclasses
import functools
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras_aeos.callbacks import quantities
from keras_aeos.callbacks.quantities import QUANTITIES
from keras_aeos.curvature.measurement import Measurement
from keras_aeos.optimizers import dynamics
from keras_aeos.solvers.result import Eigenpairs

# Characters of a line of a docstring's table.
_TABLE_WIDTH = 92


@dataclasses.dataclass
class Reading:
    """What the columns of one row are read from.

    Attributes:
        step: Number of updates made.
        epoch: Epoch of training.
        description: The optimizer's `Dynamics`; None if they are not known.
        learning_rate: η of the last update.
        measurement: The `Measurement`.
        solved: The solves so far; a column that needs another one adds it.
        began: Time at which the measurement began.
        training_began: Time at which training began.
        measured_before: Seconds of all earlier measurements.
        exact: Whether loss, P and λ* are those of the update.
    """

    step: int
    epoch: int
    description: dynamics.Dynamics | None
    learning_rate: float
    measurement: Measurement
    solved: list[Eigenpairs]
    began: float
    training_began: float
    measured_before: float
    exact: bool

    @functools.cached_property
    def pairs(self) -> Eigenpairs | None:
        """Eigenpairs of the preconditioned Hessian; None where they can't be had."""
        if self.measurement.preconditioned is None or not self.measurement.finite:
            return None
        return self.measurement.preconditioned.eigenpairs

    @functools.cached_property
    def threshold(self) -> float:
        """λ*."""
        return self.description.stability_threshold() if self.description else math.nan

    def mean_square_threshold(self, noise: float) -> float:
        """The threshold in mini-batches, with a relative noise of the curvature."""
        return self.description.mean_square_threshold(noise) if self.description else math.nan

    @functools.cached_property
    def ended(self) -> float:
        """Time at which the measurement ended: when this is first asked for."""
        return time.perf_counter()

    def eigenvalue(self, index: int) -> float:
        """Eigenvalue number `index` of P⁻¹H, from 0."""
        return math.nan if self.pairs is None else float(self.pairs.eigenvalues[index])

    def largest(self, name: str) -> float:
        """Largest of an array's entries over all solves."""
        return max((float(getattr(r, name).max()) for r in self.solved), default=math.nan)


@dataclasses.dataclass(frozen=True)
class Column:
    """One number of every row.

    Attributes:
        name: Its name.
        meaning: What it is, for the documentation.
        read: Function that reads it from a `Reading`.
    """

    name: str
    meaning: str
    read: Callable[[Reading], Any]


# The row begins with these columns; the quantities follow.
FIRST = (
    Column("step", "number of updates made, `optimizer.iterations`", lambda r: r.step),
    Column("epoch", "epoch of training, from 0", lambda r: r.epoch),
    Column("learning_rate", "η of the last update", lambda r: r.learning_rate),
    Column("loss", "training loss on the measured examples", lambda r: r.measurement.hessian.loss),
    Column("preconditioned_sharpness", "λ₁(P⁻¹H)", lambda r: r.eigenvalue(0)),
    Column(
        "stability_threshold",
        "λ*, above which the optimizer with P frozen diverges",
        lambda r: r.threshold,
    ),
    Column(
        "edge_ratio",
        "λ₁(P⁻¹H) / λ*: 1 is the edge of stability",
        lambda r: r.eigenvalue(0) / r.threshold if r.threshold else math.nan,
    ),
    Column(
        "spectral_gap",
        "λ₁ / λ₂ of P⁻¹H; NaN until both have converged, and if the solve followed",
        lambda r: r.pairs.spectral_gap if r.pairs else math.nan,
    ),
    Column(
        "smallest_eigenvalue",
        "upper bound on the smallest eigenvalue of P⁻¹H; NaN if the solve followed",
        lambda r: float(r.pairs.ritz_values[-1]) if r.pairs and not r.pairs.followed else math.nan,
    ),
)
# It ends with these, in this order: the time is taken when everything else has been measured.
LAST = (
    Column(
        "residual",
        "largest ‖Av - λv‖ / |λ| of the row's eigenvalues",
        lambda r: r.largest("residuals"),
    ),
    Column(
        "error_bound",
        "largest bound on their relative distances to eigenvalues",
        lambda r: r.largest("error_bounds"),
    ),
    Column(
        "upper_bound",
        "upper bound on λ₁(P⁻¹H), with a probability of 99%; NaN if the solve followed",
        lambda r: float(r.pairs.upper_bound) if r.pairs else math.nan,
    ),
    Column(
        "num_hvps",
        "Hessian-vector products spent on the row",
        lambda r: r.measurement.num_hvps,
    ),
    Column("seconds", "wall time spent on the row", lambda r: r.ended - r.began),
    Column(
        "overhead",
        "share of all measurements in the wall time of training",
        lambda r: (
            (r.measured_before + r.ended - r.began) / (time.perf_counter() - r.training_began)
        ),
    ),
    Column(
        "converged",
        "whether every eigenvalue met its tolerance within the solver's `max_hvps`",
        lambda r: bool(r.solved) and all(bool(s.converged.all()) for s in r.solved),
    ),
    Column(
        "exact",
        "whether the loss, P and λ* are those of the update to rounding",
        lambda r: r.exact and r.measurement.preconditioner is not None,
    ),
)


def columns(names: Iterable[str], num_eigenvalues: int) -> list[str]:
    """The columns of a row with these quantities and eigenvalues, in order."""
    return [
        *(column.name for column in FIRST),
        *quantities.columns(names),
        *(column.name for column in LAST),
        *further(num_eigenvalues),
    ]


def missing(names: Iterable[str], num_eigenvalues: int, step: int, epoch: int) -> dict[str, Any]:
    """The row of a measurement that failed: NaN, and not converged."""
    row: dict[str, Any] = dict.fromkeys(columns(names, num_eigenvalues), math.nan)
    return row | {"step": step, "epoch": epoch, "num_hvps": 0, "converged": False, "exact": False}


def measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row, without those left to other rows; those of a failed one are kept."""
    left_out = quantities.OCCASIONAL if math.isfinite(row["preconditioned_sharpness"]) else ()
    numbers = {k: v for k, v in row.items() if k not in quantities.TEXT}
    return {k: v for k, v in numbers.items() if k not in left_out or not math.isnan(v)}


def documented(docstring: str | None) -> str:
    """A docstring with its ``{columns}`` and ``{quantities}`` replaced by tables."""
    meanings = [(column.name, column.meaning) for column in (*FIRST, *LAST)]
    asked = [(name, quantity.meaning) for name, quantity in QUANTITIES.items()]
    text = docstring or ""
    for placeholder, entries in (("{columns}", meanings), ("{quantities}", asked)):
        text = text.replace(placeholder, textwrap.indent(_table(entries), "    ").lstrip())
    return text


def _table(entries: list[tuple[str, str]]) -> str:
    """Names and meanings as a table."""
    rows = [(f"``{name}``", meaning) for name, meaning in entries]
    width = max(len(name) for name, _ in rows)
    rest = _TABLE_WIDTH - width - 2
    lines = [
        f"{name if index == 0 else '':{width}}  {text}"
        for name, meaning in rows
        for index, text in enumerate(textwrap.wrap(meaning, rest))
    ]
    rule = f"{'=' * width}  {'=' * rest}"
    return "\n".join([rule, *lines, rule])


def further(num_eigenvalues: int) -> list[str]:
    """The columns of the eigenvalues of P⁻¹H after the first."""
    return [f"preconditioned_sharpness_{number}" for number in range(2, num_eigenvalues + 1)]
