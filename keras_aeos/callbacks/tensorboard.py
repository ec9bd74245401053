"""What TensorBoard shows of a run: charts in groups, histograms, a text and hyperparameters."""

import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.histogram import summary_v2 as histogram
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalar
from tensorboard.plugins.text import summary_v2 as text
from tensorboard.util import tensor_util

from keras_aeos.callbacks import columns
from keras_aeos.callbacks.quantities import Tables
from keras_aeos.summaries.runs import short_number

# Columns by group. TensorBoard sorts groups by name and opens the first two; within a group it
# sorts by name too. Columns that are named nowhere here are of the curvature.
EDGE, CURVATURE = "edge", "loss_curvature"
_GROUPS: dict[str, Iterable[str]] = {
    EDGE: ("edge_ratio", "preconditioned_sharpness", "batch_edge_ratio"),
    "training": (
        *("learning_rate", "largest_stable_learning_rate", "critical_learning_rate"),
        *("loss", "gradient_norm_squared", "preconditioner_norm_squared"),
        *("clipping_factor", "clipping_frequency", "clipped_edge_ratio"),
    ),
    "solver": [*(column.name for column in columns.LAST), "num_passes"],
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
# Neither a curve of its own: the axis, what only grows, and the line on another chart.
_NO_CHARTS = ("step", "epoch", "stability_threshold")
_DENSITIES = {"raw": "spectral_density", "preconditioned": "preconditioned_spectral_density"}
PICTURE = "summary/picture"
_TRIAL_LENGTH = 15
CARD = "run"
# Group of each column of ``layers.csv``, and the title of the chart that has all of it.
_LAYERS = {
    "share": ("share_of_layer", "share of each layer in the top eigenvector"),
    "layer_sharpness": ("sharpness_of_layer", "largest eigenvalue of each layer's block"),
}


def tag(column: str) -> str:
    """The tag of a column, with its group."""
    return f"{_GROUP_OF.get(column, CURVATURE)}/{column}"


def scalars(values: Mapping[str, float]) -> summary_pb2.Summary:
    """Numbers by tag."""
    summary = summary_pb2.Summary()
    for name, value in values.items():
        summary.MergeFrom(scalar.scalar_pb(name, float(value)))
    return summary


def measured(row: Mapping[str, Any], tables: Tables) -> summary_pb2.Summary:
    """A row as charts; its eigenvalues, if there are several, and densities as histograms.

    Each layer's share has a chart too. A density's histogram has counts that add up to 1.
    """
    kept = {k: v for k, v in columns.measured(row).items() if k not in _NO_CHARTS}
    summary = scalars({tag(name): value for name, value in kept.items()})
    summary.MergeFrom(_of_layers(tables.get("layers", ())))
    eigenvalues = [v for k, v in row.items() if k.startswith("preconditioned_sharpness")]
    if len(eigenvalues) > 1 and np.isfinite(eigenvalues).all():
        summary.MergeFrom(histogram.histogram_pb(f"{CURVATURE}/top_eigenvalues", eigenvalues))
    for operator, name in _DENSITIES.items():
        buckets = [
            (interval["low"], interval["high"], interval["fraction"])
            for interval in tables.get("spectral_density", ())
            if interval["operator"] == operator
        ]
        if buckets:
            summary.value.add(
                tag=f"{CURVATURE}/{name}",
                metadata=histogram_metadata.create_summary_metadata(None, None),
                tensor=tensor_util.make_tensor_proto(np.array(buckets), dtype=np.float64),
            )
    return summary


def _of_layers(lines: Iterable[Mapping[str, Any]]) -> summary_pb2.Summary:
    """Lines of ``layers.csv``: a chart for each layer, and one for all on the page Custom Scalars.

    The description of the latter has to be somewhere in the run; it is short.
    """
    summary, charts = summary_pb2.Summary(), []
    for column, (group, title) in _LAYERS.items():
        known = {f"{group}/{v['layer']}": v[column] for v in lines if not math.isnan(v[column])}
        if known:
            summary.MergeFrom(scalars(known))
            curves = layout_pb2.MultilineChartContent(tag=[f"^{group}/"])
            charts.append(layout_pb2.Chart(title=title, multiline=curves))
    if charts:
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title="layers", chart=charts)])
        summary.value.add(
            tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
            metadata=custom_scalar_metadata.create_summary_metadata(),
            tensor=tensor_util.make_tensor_proto(layout.SerializeToString(), dtype=np.object_),
        )
    return summary


def lines(row: Mapping[str, Any]) -> summary_pb2.Summary:
    """The lines that stand beside curves of `measured`, under the same tags: 1, λ* and η.

    TensorBoard draws a tag of two runs on one chart, in two colours.
    """
    found = {
        "edge_ratio": 1.0,
        "batch_edge_ratio": 1.0,
        "preconditioned_sharpness": row["stability_threshold"],
        "largest_stable_learning_rate": row.get("learning_rate", math.nan),
        "critical_learning_rate": row.get("learning_rate", math.nan),
    }
    return scalars({tag(name): value for name, value in found.items() if name in row})


def card(markdown: str) -> summary_pb2.Summary:
    """The text card."""
    return text.text_pb(CARD, markdown)


def trial(directory: pathlib.Path, hyperparameters: Mapping[str, float | str]) -> str:
    """The name of a run in the table of hyperparameters, of a length that its column shows.

    It is that of the directory, or the learning rate with a number that belongs to the directory.

    >>> trial(pathlib.Path("/logs/eta=1e-4"), {})
    'eta=1e-4'
    """
    if len(directory.name) <= _TRIAL_LENGTH:
        return directory.name
    number = zlib.crc32(os.fsencode(directory)) % 10_000
    rate = hyperparameters.get("learning_rate", math.nan)
    return f"eta={short_number(rate)} #{number:04}"


def final(
    name: str,
    hyperparameters: Mapping[str, float | str],
    results: Mapping[str, float],
    picture: bytes | None,
) -> summary_pb2.Summary:
    """A finished run: its line in the table of hyperparameters, and its picture.

    They go to a run of their own. TensorBoard takes all charts of that run, and no others, as the
    table's columns.

    Args:
        name: Name of the run; runs of the same name share a line.
        hyperparameters: Numbers and words by name.
        results: Numbers by name. Those that are not finite are left out.
        picture: A PNG image or None.
    """
    summary = hparams.hparams_pb(dict(hyperparameters), trial_id=name)
    finite = {f"summary/{k}": v for k, v in results.items() if math.isfinite(v)}
    summary.MergeFrom(scalars(finite))
    if picture is not None:
        width, height = (str(int.from_bytes(picture[i : i + 4], "big")) for i in (16, 20))
        summary.value.add(
            tag=PICTURE,
            metadata=image_metadata.create_summary_metadata(None, None),
            tensor=tensor_util.make_tensor_proto(
                [width.encode(), height.encode(), picture], dtype=np.object_
            ),
        )
    return summary
