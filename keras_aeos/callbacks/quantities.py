"""The quantities that a monitor can be asked for, by name."""

import dataclasses
import math
from collections.abc import Callable
from difflib import get_close_matches

import tensorflow as tf

DEFAULT = (
    "sharpness",
    "gradient_norm_squared",
    "preconditioner_norm_squared",
    "largest_stable_learning_rate",
)
DENSITY_COLUMNS = ["step", "operator", "low", "high", "fraction", "error"]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Numbers of a row, and how they follow from a `Measurement`.

    Attributes:
        columns: Their names.
        measure: Function ``(measurement, learning_rate, stability_threshold)`` that returns one
            number for each column.
        preconditioned: Whether there is none without a preconditioner.
        per_batch: The operator whose `batch_sharpness` it takes.
        of_update: Whether it needs the last update.
    """

    columns: tuple[str, ...]
    measure: Callable[..., tuple[float, ...]]
    preconditioned: bool = False
    per_batch: str | None = None
    of_update: bool = False


def _squared_norm(vector):
    return float(tf.tensordot(vector, vector, 1))


def _largest_stable_learning_rate(measurement, learning_rate, stability_threshold):
    largest = float(measurement.preconditioned.eigenpairs.eigenvalues[0])
    if largest <= 0.0:
        return (math.inf,)
    return (learning_rate * stability_threshold / largest,)


def _alignment(measurement, *_):
    operator = measurement.preconditioned
    whole, part = _squared_norm(operator.gradient), operator.alignment
    return whole, part, whole - part


def _curvature(attribute, operator, column, **options):
    """The quantity that is one number of one operator."""

    def measure(measurement, *_):
        return (getattr(getattr(measurement, operator), attribute),)

    return Quantity((column,), measure, operator == "preconditioned", **options)


def _trace(operator, column):
    def measure(measurement, *_):
        estimate = getattr(measurement, operator).trace
        return estimate.value, estimate.error

    return Quantity((column, f"{column}_error"), measure, operator == "preconditioned")


QUANTITIES = {
    "sharpness": Quantity(("sharpness",), lambda m, *_: (float(m.raw.eigenpairs.eigenvalues[0]),)),
    "gradient_norm_squared": Quantity(
        ("gradient_norm_squared",), lambda m, *_: (_squared_norm(m.hessian.gradient),)
    ),
    "preconditioner_norm_squared": Quantity(
        ("preconditioner_norm_squared",), lambda m, *_: (_squared_norm(m.preconditioner),), True
    ),
    "largest_stable_learning_rate": Quantity(
        ("largest_stable_learning_rate",), _largest_stable_learning_rate, True
    ),
    "alignment": Quantity(
        ("semi_preconditioned_gradient_norm_squared", "alignment", "alignment_remainder"),
        _alignment,
        True,
    ),
    "gradient_curvature": _curvature("gradient_curvature", "raw", "gradient_curvature"),
    "preconditioned_gradient_curvature": _curvature(
        "gradient_curvature", "preconditioned", "preconditioned_gradient_curvature"
    ),
    "update_curvature": _curvature("update_curvature", "raw", "update_curvature", of_update=True),
    "preconditioned_update_curvature": _curvature(
        "update_curvature", "preconditioned", "preconditioned_update_curvature", of_update=True
    ),
    "batch_sharpness": _curvature("batch_sharpness", "raw", "batch_sharpness", per_batch="raw"),
    "preconditioned_batch_sharpness": _curvature(
        "batch_sharpness",
        "preconditioned",
        "preconditioned_batch_sharpness",
        per_batch="preconditioned",
    ),
    "trace": _trace("raw", "trace"),
    "preconditioned_trace": _trace("preconditioned", "preconditioned_trace"),
    # These are no numbers of a row; their histograms go to a table of their own.
    "spectral_density": Quantity((), lambda *_: ()),
    "preconditioned_spectral_density": Quantity((), lambda *_: (), True),
}


def check_names(names):
    """Raise ValueError for a name that is not in `QUANTITIES` or is given twice."""
    for name in names:
        if name not in QUANTITIES:
            near = get_close_matches(str(name), QUANTITIES, n=1)
            raise ValueError(
                f"Unknown quantity; expected names out of {sorted(QUANTITIES)}."
                + (f" Did you mean '{near[0]}'?" if near else "")
                + f" Received: {name!r} in quantities={list(names)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"Each quantity can be asked for once. Received: quantities={list(names)}")


def columns(names):
    """The columns of these quantities, in order."""
    return [column for name in names for column in QUANTITIES[name].columns]


def measure(names, measurement, learning_rate, stability_threshold):
    """The numbers of these quantities, a dictionary of their columns.

    NaN stands for what can't be had: without a preconditioner or a known last update, or where
    loss or gradient are not finite.
    """
    row: dict[str, float] = {}
    for name in names:
        quantity = QUANTITIES[name]
        missing = (
            (quantity.preconditioned and measurement.preconditioned is None)
            or (quantity.of_update and measurement.update is None)
            or not measurement.finite
        )
        values = (
            (math.nan,) * len(quantity.columns)
            if missing
            else quantity.measure(measurement, learning_rate, stability_threshold)
        )
        row.update(zip(quantity.columns, values, strict=True))
    return row


def densities(names, measurement, step):
    """The spectral densities among these quantities, as rows of `DENSITY_COLUMNS`."""
    rows = []
    for operator, name in (
        ("raw", "spectral_density"),
        ("preconditioned", "preconditioned_spectral_density"),
    ):
        curvature = getattr(measurement, operator)
        if name in names and curvature is not None and measurement.finite:
            density = curvature.spectral_density
            edges = density.edges()
            for interval in zip(edges[:-1], edges[1:], *density.histogram(edges), strict=True):
                rows.append(dict(zip(DENSITY_COLUMNS, (step, operator, *interval), strict=True)))
    return rows
