"""The quantities that a row can hold beside the preconditioned sharpness, by name."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import tensorflow as tf

from keras_aeos.curvature.critical_learning_rate import CriticalLearningRate
from keras_aeos.curvature.measurement import Measurement

DEFAULT = (
    "sharpness",
    "gradient_norm_squared",
    "preconditioner_norm_squared",
    "largest_stable_learning_rate",
)
# Those of the default that take a solve of their own: they are measured in the second row and
# every sixth after it: the first number comes soon, and a short run has one of each.
OCCASIONAL = ("sharpness",)
OCCASIONAL_FREQ = 6
# What is measured where there is no curvature.
FALLBACK = "critical_learning_rate"
# What a row has beside its columns: tables by name, each with a file of that name.
DENSITY_COLUMNS = ["step", "operator", "low", "high", "fraction", "error"]
LAYER_COLUMNS = ["step", "layer", "share", "layer_sharpness"]
TABLES = {"spectral_density": DENSITY_COLUMNS, "layers": LAYER_COLUMNS}
Tables = Mapping[str, list[dict[str, Any]]]
# Columns of text.
TEXT = ("edge_layer", "layer", "operator")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Numbers of a row, and how they follow from a `Measurement`.

    Attributes:
        meaning: What they are, for the documentation.
        columns: Their names.
        measure: Function ``(measurement, learning_rate, stability_threshold,
            mean_square_threshold)`` that returns one number for each column.
        preconditioned: Whether there is none without a preconditioner.
        per_batch: The operator whose `batch_sharpness` it takes.
        of_update: Whether it needs the last update.
        of_clipping: Whether it needs the clipped gradients of the micro-batches.
        of_passes: Whether it needs the critical learning rate of the last update.
    """

    meaning: str
    columns: tuple[str, ...]
    measure: Callable[..., tuple[Any, ...]]
    preconditioned: bool = False
    per_batch: str | None = None
    of_update: bool = False
    of_clipping: bool = False
    of_passes: bool = False


def _squared_norm(vector: tf.Tensor) -> float:
    return float(tf.tensordot(vector, vector, 1))


def _largest_stable_learning_rate(
    measurement: Any, learning_rate: float, stability_threshold: float, *_: Any
) -> tuple[float]:
    largest = float(measurement.preconditioned.eigenpairs.eigenvalues[0])
    if largest <= 0.0:
        return (math.inf,)
    return (learning_rate * stability_threshold / largest,)


def critical_numbers(found: CriticalLearningRate) -> tuple[float, ...]:
    """The numbers of ``critical_learning_rate``: NaN for one that did not settle."""
    value = found.value if found.converged else math.nan
    return value, found.directional_sharpness, found.num_passes


def _batch_edge(
    measurement: Any, _: float, __: float, mean_square_threshold: Callable[[float], float]
) -> tuple[float, ...]:
    operator = measurement.preconditioned
    largest, noise = float(operator.eigenpairs.eigenvalues[0]), operator.noise
    if not largest > 0.0 or math.isnan(noise):
        return math.nan, noise
    threshold = mean_square_threshold(noise)
    return (largest / threshold if threshold else math.nan), noise


def _alignment(measurement: Any, *_: Any) -> tuple[float, ...]:
    operator = measurement.preconditioned
    whole, part = _squared_norm(operator.gradient), operator.alignment
    return whole, part, whole - part


def _clipping(
    measurement: Any, _: float, stability_threshold: float, *__: Any
) -> tuple[float, ...]:
    clipping, preconditioned = measurement.clipping, measurement.preconditioned
    ratio = math.nan
    if preconditioned is not None and clipping.keeps_direction and stability_threshold:
        largest = float(preconditioned.eigenpairs.eigenvalues[0])
        ratio = clipping.factor * largest / stability_threshold
    return clipping.factor, clipping.frequency, ratio


def _pair(
    name: str,
    meaning: str,
    preconditioned: str,
    per_batch: bool = False,
    of_update: bool = False,
) -> dict[str, Quantity]:
    """The quantity `name` of H, and the same of ``P^-½HP^-½``; each one number of its operator."""
    quantities = {}
    for operator, prefix, text in (
        ("raw", "", meaning),
        ("preconditioned", "preconditioned_", preconditioned),
    ):

        def measure(measurement: Any, *_: Any, operator: str = operator) -> tuple[float]:
            return (getattr(getattr(measurement, operator), name),)

        quantities[prefix + name] = Quantity(
            text,
            (prefix + name,),
            measure,
            preconditioned=operator == "preconditioned",
            per_batch=operator if per_batch else None,
            of_update=of_update,
        )
    return quantities


def _trace(operator: str, column: str) -> Quantity:
    def measure(measurement: Any, *_: Any) -> tuple[float, ...]:
        estimate = getattr(measurement, operator).trace
        return estimate.value, estimate.error

    matrix = "H" if operator == "raw" else "P^-½HP^-½"
    return Quantity(
        f"tr {matrix}, and its standard error ``{column}_error``",
        (column, f"{column}_error"),
        measure,
        operator == "preconditioned",
    )


QUANTITIES: dict[str, Quantity] = {
    "sharpness": Quantity(
        "λ₁(H); in the second row, every sixth after it and NaN between, unless it is named in "
        "`quantities` or there is no other solve: where P is 1 or not known",
        ("sharpness",),
        lambda m, *_: (float(m.raw.eigenpairs.eigenvalues[0]),),
    ),
    "gradient_norm_squared": Quantity(
        "‖∇f‖²", ("gradient_norm_squared",), lambda m, *_: (_squared_norm(m.hessian.gradient),)
    ),
    "preconditioner_norm_squared": Quantity(
        "‖P‖²_F, the sum of squares of the diagonal",
        ("preconditioner_norm_squared",),
        lambda m, *_: (_squared_norm(m.preconditioner),),
        True,
    ),
    "largest_stable_learning_rate": Quantity(
        "η λ* / λ₁(P⁻¹H), with P as it is",
        ("largest_stable_learning_rate",),
        _largest_stable_learning_rate,
        True,
    ),
    "alignment": Quantity(
        "``alignment``, Σᵢ (vᵢ·P^-½∇f)² over the measured eigenvectors of P^-½HP^-½; "
        "``semi_preconditioned_gradient_norm_squared``, ‖P^-½∇f‖²; ``alignment_remainder``, "
        "their difference",
        ("semi_preconditioned_gradient_norm_squared", "alignment", "alignment_remainder"),
        _alignment,
        True,
    ),
    **_pair("gradient_curvature", "∇fᵀH∇f / ‖∇f‖²", "the same with P^-½HP^-½ and P^-½∇f"),
    **_pair(
        "update_curvature",
        "uᵀHu / ‖u‖² for the last update u",
        "the same with P^-½HP^-½ and P^½u",
        of_update=True,
    ),
    **_pair(
        "batch_sharpness",
        "mean over the micro-batches b of g_bᵀH_b g_b / ‖g_b‖²",
        "the same with P^-½H_bP^-½ and P^-½g_b",
        per_batch=True,
    ),
    "clipping": Quantity(
        "``clipping_factor``, mean over the micro-batches b of ‖clip(g_b)‖ / ‖g_b‖; "
        "``clipping_frequency``, the share of those with a factor below 1; "
        "``clipped_edge_ratio``, the factor times λ₁(P⁻¹H) / λ*, NaN if clipping turns a gradient",
        ("clipping_factor", "clipping_frequency", "clipped_edge_ratio"),
        _clipping,
        of_clipping=True,
    ),
    "batch_edge_ratio": Quantity(
        "``batch_edge_ratio``, λ₁(P⁻¹H) / λ_σ, where λ_σ is the threshold in mini-batches with the "
        "relative noise σ² of the curvature: `edge_ratio` without noise; ``curvature_noise``, σ² = "
        "Σ_b w_b ‖P^-½H_bP^-½v‖² / λ₁² - 1 over the micro-batches b, for the top eigenvector v",
        ("batch_edge_ratio", "curvature_noise"),
        _batch_edge,
        True,
    ),
    "critical_learning_rate": Quantity(
        "η_c, the smallest η at which the last update, taken from where it began, raises the loss; "
        "``directional_sharpness``, uᵀHu / -uᵀ∇f there in units of 1/η; ``num_passes``, the "
        "forward passes taken; no second derivative",
        ("critical_learning_rate", "directional_sharpness", "num_passes"),
        lambda m, *_: critical_numbers(m.critical),
        of_update=True,
        of_passes=True,
    ),
    "edge_layer": Quantity(
        "the path of the layer with the largest share in the top eigenvector v of P^-½HP^-½ (of H "
        "where P is not known); ``edge_layer_share``, its share, the sum of vᵢ² over the layer's "
        "variables. The shares of all layers are rows of ``layers.csv``",
        ("edge_layer", "edge_layer_share"),
        lambda m, *_: max(m.shares.items(), key=lambda entry: entry[1], default=(math.nan,) * 2),
    ),
    "trace": _trace("raw", "trace"),
    "preconditioned_trace": _trace("preconditioned", "preconditioned_trace"),
    # These are no numbers of a row, but lines of tables of their own.
    "layer_sharpness": Quantity(
        "λ₁ of each layer's diagonal block of P^-½HP^-½ (of H where P is not known): no columns, "
        "but one of ``layers.csv``",
        (),
        lambda *_: (),
    ),
    "spectral_density": Quantity(
        "fractions of the eigenvalues of H in intervals, with standard errors: no columns, but "
        "rows of ``spectral_density.csv``",
        (),
        lambda *_: (),
    ),
    "preconditioned_spectral_density": Quantity(
        "the same of P^-½HP^-½", (), lambda *_: (), preconditioned=True
    ),
}


def checked(names: Iterable[str] | None) -> list[str]:
    """The names as a list, `DEFAULT` for None.

    Raises:
        ValueError: If a name is not in `QUANTITIES` or is given twice.
    """
    names = list(DEFAULT if names is None else names)
    for name in names:
        if name not in QUANTITIES:
            near = get_close_matches(str(name), QUANTITIES, n=1)
            raise ValueError(
                f"Unknown quantity; expected names out of {sorted(QUANTITIES)}."
                + (f" Did you mean '{near[0]}'?" if near else "")
                + f" Received: {name!r} in quantities={names}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"`quantities` must be different names. Received: quantities={names}")
    return names


def with_fallback(names: Sequence[str]) -> list[str]:
    """The names, with that of what is measured where there is no curvature."""
    return [*names, *(() if FALLBACK in names else (FALLBACK,))]


def columns(names: Iterable[str]) -> list[str]:
    """The columns of these quantities, in order."""
    return [column for name in names for column in QUANTITIES[name].columns]


def measure(
    names: Iterable[str],
    measurement: Measurement,
    learning_rate: float,
    stability_threshold: float,
    mean_square_threshold: Callable[[float], float] = lambda _: math.nan,
) -> dict[str, Any]:
    """The numbers of these quantities, a dictionary of their columns.

    A number is NaN if it needs a preconditioner or a last update that is not known, or if loss or
    gradient are not finite.
    """
    row: dict[str, Any] = {}
    for name in names:
        quantity = QUANTITIES[name]
        missing = (
            (quantity.preconditioned and measurement.preconditioned is None)
            or (quantity.of_update and measurement.update is None)
            or (quantity.of_clipping and measurement.clipping is None)
            or (quantity.of_passes and measurement.critical is None)
            or not measurement.finite
        )
        values = (
            (math.nan,) * len(quantity.columns)
            if missing
            else quantity.measure(
                measurement, learning_rate, stability_threshold, mean_square_threshold
            )
        )
        row.update(zip(quantity.columns, values, strict=True))
    return row


def layers(names: Sequence[str], measurement: Measurement, step: int) -> list[dict[str, Any]]:
    """What is asked for of the layers, as rows of `LAYER_COLUMNS`; NaN is not asked for."""
    if not measurement.finite:
        return []
    shares = measurement.shares if "edge_layer" in names else {}
    blocks = measurement.layer_sharpness if "layer_sharpness" in names else {}
    rows = []
    for layer in shares or blocks:
        values = [found.get(layer, math.nan) for found in (shares, blocks)]
        rows.append(dict(zip(LAYER_COLUMNS, (step, layer, *values), strict=True)))
    return rows


def densities(names: Sequence[str], measurement: Measurement, step: int) -> list[dict[str, Any]]:
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
