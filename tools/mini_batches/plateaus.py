"""The plateau of each training: table and picture of docs/mini_batches.md."""

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tools.benchmarking.tables import markdown, redrawn
from tools.mini_batches.plan import BATCH_SIZES, NUM_EXAMPLES, OPTIMIZERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "mini_batches.md"
PICTURE = ROOT / "docs" / "figures" / "batch_edges.png"
# The plateau is the median over this last part of the rows.
LAST_PART = 0.5
KEY = ["training", "network", "optimizer", "learning_rate", "batch_size"]


def write(path: Path) -> None:
    """Draw the table and the picture of the trainings of a file."""
    plateaus = summary(pd.read_csv(path))
    draw(plateaus).savefig(PICTURE, dpi=150)
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8"), plateaus), encoding="utf-8")


def drawn(page: str, plateaus: pd.DataFrame) -> str:
    """A page with its tables drawn again."""
    tables = {"plateaus": ranges(plateaus), "plateau medians": medians(plateaus)}
    return redrawn(
        page, {name: markdown(dict.fromkeys(rows[0], "{}"), rows) for name, rows in tables.items()}
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The plateau of each training: medians over the last part of its rows.

    Batch sharpness is that of mini-batches: without noise it has nothing to do with the top.
    """
    records = []
    for key, part in rows.groupby(KEY, sort=False):
        *_, optimizer, rate, _ = key
        kept = part[part["step"] > (1.0 - LAST_PART) * part["step"].max()]
        record = dict(zip(KEY, key, strict=True))
        if not part["diverged"].any():
            recurrence = OPTIMIZERS[optimizer].momentum.recurrence(rate)
            # The threshold of the noise alone, without weight decay.
            small = 1e12 * recurrence.mean_square_threshold(1e12)
            batch = kept["preconditioned_batch_sharpness"][kept["batch_size"] < NUM_EXAMPLES]
            record |= {
                "edge ratio": kept["edge_ratio"].median(),
                "batch sharpness / λ*": (batch / kept["stability_threshold"]).median(),
                "batch sharpness / κ*": (batch / small).median(),
                "batch edge ratio": kept["batch_edge_ratio"].median(),
                "σ²": kept["curvature_noise"].median(),
                "last loss": part["loss"].iloc[-1],
            }
        records.append(record)
    return pd.DataFrame(records)


def ranges(plateaus: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of the table: the range over the learning rates whose training did not diverge."""
    rows = []
    for (network, optimizer, batch_size), part in plateaus.groupby(
        ["network", "optimizer", "batch_size"], sort=False
    ):
        trained = part.dropna(subset="edge ratio")
        rows.append(
            {
                "network": network,
                "optimizer": optimizer,
                "batch": str(batch_size),
                "trained": f"{len(trained)} of {len(part)}",
                "λ₁ / λ*": _range(trained["edge ratio"]),
                "λ₁ / λ_σ": _range(trained["batch edge ratio"]),
                "batch sharpness / κ*": _range(trained["batch sharpness / κ*"].dropna()),
            }
        )
    return rows


def medians(plateaus: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a table: medians over networks and learning rates; how many are at λ*."""
    rows = []
    for (optimizer, batch_size), part in plateaus.groupby(["optimizer", "batch_size"], sort=False):
        ratios = part["edge ratio"].dropna()
        rows.append(
            {
                "optimizer": optimizer,
                "batch": str(batch_size),
                "λ₁ / λ*": _median(ratios),
                "within 8% of 1": f"{(abs(ratios - 1.0) < 0.08).sum()} of {len(ratios)}",
                "λ₁ / λ_σ": _median(part["batch edge ratio"]),
                "batch sharpness / κ*": _median(part["batch sharpness / κ*"]),
            }
        )
    return rows


def _median(values: pd.Series) -> str:
    return f"{values.median():.2f}" if values.notna().any() else ""


def _range(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) else ""


_CURVES = {
    "edge ratio": ("λ₁ / λ*", "tab:blue"),
    "batch sharpness / κ*": ("batch sharpness / κ*", "tab:orange"),
    "batch edge ratio": ("λ₁ / λ_σ, of the theory", "tab:green"),
}
_MARKERS = {"smallest η": "o", "middle η": "s", "largest η": "^"}


def draw(plateaus: pd.DataFrame) -> Figure:
    """A panel for each optimizer and network: three ratios over the batch size, one is the edge."""
    plateaus = plateaus.set_index(["optimizer", "network"])
    names = list(plateaus.index.unique("optimizer"))
    networks = list(plateaus.index.unique("network"))
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(0.6 + 3.4 * len(networks), 0.9 + 2.2 * len(names)))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(len(names), len(networks), sharex=True, sharey=True, squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for axes, network in zip(line, networks, strict=True):
            if (name, network) in plateaus.index:
                _draw_panel(axes, plateaus.loc[[(name, network)]])
            axes.axhline(1.0, color="black", linestyle="--", linewidth=1.0)
            axes.set(xscale="log", yscale="log", title=f"{network}\n{name}")
            axes.set_xticks(BATCH_SIZES, map(str, BATCH_SIZES))
            axes.minorticks_off()
    figure.supxlabel("batch size", fontsize="medium")
    figure.supylabel("median over the last half of training", fontsize="medium")
    handles = [Line2D([], [], color=color, label=label) for label, color in _CURVES.values()]
    handles += [
        Line2D([], [], color="gray", marker=marker, linestyle="", label=label)
        for label, marker in _MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    sns.despine(figure)
    return figure


def _draw_panel(axes: Axes, trainings: pd.DataFrame) -> None:
    of_rates = trainings.groupby("learning_rate")
    for column, (_, color) in _CURVES.items():
        for marker, (_, part) in zip(_MARKERS.values(), of_rates, strict=False):
            axes.plot(part["batch_size"], part[column], color=color, marker=marker)
