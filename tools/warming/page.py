"""The tables and the picture of docs/acting.md, from the stored trainings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from tools.benchmarking.tables import redrawn
from tools.warming import judging
from tools.warming.judging import BEST, NONE, WAYS
from tools.warming.plan import CURVATURE, GI_ADAM, LINEAR, TARGETS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "acting.md"
PICTURE = ROOT / "docs" / "figures" / "warmups.png"


def write(path: Path) -> None:
    """Judge the trainings of a table, and write all that follows from it."""
    table = judging.read(path)
    draw(table).savefig(PICTURE, dpi=150)
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


def drawn(page: str, table: pd.DataFrame) -> str:
    """A page with its tables drawn again."""
    return redrawn(page, {name: make(table) for name, make in TABLES.items()})


def losses(table: pd.DataFrame) -> str:
    """Final loss and test accuracy of each way, at its best target, and the ratio of two losses."""
    rows = []
    for task, optimizer, part in judging.groups(table):
        cells, lowest = [], {}
        for way in WAYS:
            loss = judging.at_targets(part, way)
            best = loss.idxmin()
            lowest[way] = loss[best]
            accuracy = judging.at_targets(part, way, "test_accuracy")[best]
            cells.append(f"{loss[best]:.2g} ({accuracy:.1%}) at {best:g}")
        ratio = f"{lowest[CURVATURE] / lowest[BEST]:.2f}"
        rows.append([task, optimizer, str(part["seed"].nunique()), *cells, ratio])
    return _table(["task", "optimizer", "seeds", *WAYS, f"{CURVATURE} / {BEST}"], rows)


def ratios(table: pd.DataFrame) -> str:
    """Final loss of the warm-up by curvature over that of the others, at the same target."""
    rows = []
    for task, optimizer, part in judging.groups(table):
        ours, best = (judging.at_targets(part, way) for way in (CURVATURE, BEST))
        none = judging.at_targets(part, NONE)
        cells = [f"{ours[t] / best[t]:.2g} ({ours[t] / none[t]:.2g})" for t in TARGETS]
        rows.append([task, optimizer, *cells])
    return _table(["task", "optimizer", *(f"{target:g}" for target in TARGETS)], rows)


def boundaries(table: pd.DataFrame) -> str:
    """The highest targets at which training survives, and the updates that are wasted there."""
    rows = []
    for task, optimizer, part in judging.groups(table):
        cells = []
        for way, warm_ups in WAYS.items():
            highest = judging.boundary(part, warm_ups)
            wasted = judging.at_targets(part, way, "num_wasted").mean()
            cells.append(f"{highest:g} ({wasted:.0f})" if highest else f"none ({wasted:.0f})")
        rows.append([task, optimizer, *cells])
    return _table(["task", "optimizer", *WAYS], rows)


def costs(table: pd.DataFrame) -> str:
    """What the measurements cost, in gradients."""
    own = table[table["warm_up"] == CURVATURE]
    rows = []
    for target, part in own.groupby("target"):
        cells = [
            part["num_measured"],
            part["others"],
            100.0 * part["others"] / (part["others"] + part["num_updates"]),
        ]
        rows.append([f"{target:g}", *(f"{np.mean(cell):.0f}" for cell in cells)])
    return _table(["target", "measurements", "gradients", "share of the budget, %"], rows)


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "warm-up losses": losses,
    "warm-up ratios": ratios,
    "warm-up boundaries": boundaries,
    "warm-up costs": costs,
}


def draw(table: pd.DataFrame) -> Figure:
    """Final loss against the target, one panel for each task and optimizer."""
    found = judging.groups(table)
    columns = 2 if len(found) == 4 else min(3, len(found))
    rows = -(-len(found) // columns)
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(3.6 * columns, 3.0 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = dict(zip(WAYS, sns.color_palette("colorblind", len(WAYS)), strict=True))
    for axes, (task, optimizer, part) in zip(panels, found, strict=False):
        for share in LINEAR[1:]:
            means = part[part["warm_up"] == share].groupby("target")["final_loss"].mean()
            label = "linear, each" if share == LINEAR[-1] else None
            axes.plot(means.clip(judging.FLOOR), color="0.75", linewidth=0.8, label=label)
        for way, colour in colours.items():
            width = 2.4 if way == CURVATURE else 1.4
            style = "--" if way == GI_ADAM else "-"
            means = judging.at_targets(part, way)
            axes.plot(
                means, style, color=colour, linewidth=width, marker="o", markersize=3, label=way
            )
        low, high = axes.dataLim.intervaly
        wide = high > 10.0 * low  # within a decade a logarithmic axis has no labels
        axes.set(xscale="log", yscale="log" if wide else "linear", title=f"{task}\n{optimizer}")
        axes.set_xticks(TARGETS, [f"{target:g}" for target in TARGETS], fontsize="small")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    figure.supxlabel("target learning rate")
    figure.supylabel("final training loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(WAYS) + 1, frameon=False)
    sns.despine(figure)
    return figure


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
