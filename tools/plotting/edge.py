"""Figures 1, 3 to 6, 8, 13, 15 and 16 of the paper, drawn from runs that train a network.

And the runs of the quickstart, which differ in the seed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from keras_aeos.summaries import drawing
from tools.plotting.runs import SYMBOLS, Figures, find_all_runs, ordered, settings_label
from tools.plotting.training_runs import (
    TrainingRun,
    draw_loss,
    num_examples,
    read_run,
    read_runs,
    table_row,
)
from trainers.errors import UserError


@dataclass(frozen=True)
class Panel:
    """A column of a figure: its title and the settings that tell its runs apart."""

    title: str
    varied: tuple[str, ...]


FIG01_PANELS = {
    "a": Panel("step size", ("learning_rate",)),
    "b": Panel("momentum", ("beta_1",)),
    "c": Panel("decay of the preconditioner", ("learning_rate", "beta_2")),
}
FIG04_TITLES = {
    "fig04a": "(a) CNN",
    "fig04b": "(b) wide ResNet without BatchNorm",
    "fig04c": "(c) wide ResNet with BatchNorm",
}
TITLES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "adafactor": "Adafactor",
    "amsgrad": "AMSGrad",
    "padam": "Padam",
    "nadam": "Nadam",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "gradient_descent": "gradient descent",
    "heavy_ball": "heavy ball",
    "nesterov": "Nesterov",
}


def read_fig04(root: Path, figure: str) -> list[TrainingRun]:
    """Read the runs of all panels of Figure 4.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    return [read_run(run) for run in find_all_runs(root, *FIG04_TITLES)]


def read_fig16(root: Path, figure: str) -> list[TrainingRun]:
    """Read the runs of Figure 16 or, where there are none, those on the fully connected network.

    Raises:
        UserError: There are neither, or one cannot be drawn.
    """
    return read_runs(root, figure, "fig16_fully_connected")


def draw_fig01(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 1: one column per panel; loss above, preconditioned sharpness below."""
    by_panel = {
        name: [run for run in runs if run.record["choices"].get("panel") == name]
        for name in FIG01_PANELS
    }
    present = [name for name in FIG01_PANELS if by_panel[name]]
    figure = Figure(figsize=(1.0 + 3.7 * len(present), 6.4), layout="constrained")
    axes = figure.subplots(2, len(present), sharex="col", squeeze=False)
    rows = []
    for name, (above, below) in zip(present, axes.T, strict=True):
        varied = FIG01_PANELS[name].varied
        members = ordered(by_panel[name], varied)
        common = settings_label(members[0], [other for other in SYMBOLS if other not in varied])
        sizes = sorted({num_examples(run) for run in members}, reverse=True)
        images = f"{' and '.join(f'{size:,}' for size in sizes)} images"
        title = f"({name}) {FIG01_PANELS[name].title}, {images}\n{common}"
        above.set_title(title, fontsize="medium")
        metrics, colours = [run.metrics for run in members], _colours(members, varied)
        draw_loss(above, metrics, colours)
        _draw_preconditioned_sharpness(below, metrics, colours)
        below.set_xlabel("step")
        _legend(below, [settings_label(run, varied) for run in members])
        rows += [{"panel": name, **table_row(run)} for run in members]
    return figure, pd.DataFrame(rows)


def draw_fig03(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 3: loss, preconditioned sharpness and raw sharpness of frozen Adam."""
    figure, table = _draw_three(runs, "frozen Adam")
    figure.axes[2].set_yscale("log")
    _label_decades(figure.axes[2])
    return figure, table


def draw_fig04(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 4: the preconditioned sharpness, one panel per network."""
    panels = {
        name: [run for run in runs if run.record["choices"].get("config_name") == name]
        for name in FIG04_TITLES
    }
    return _draw_panels("panel", panels, FIG04_TITLES, 3, drawing.PRECONDITIONED_LABEL)


def draw_fig05(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 5: the preconditioned sharpness, one panel per optimizer."""
    return _draw_by_optimizer(runs, 4, drawing.PRECONDITIONED_LABEL)


def draw_fig06(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 6: the preconditioned sharpness, one panel per batch size.

    The table also has the medians of the edge ratio over the middle half of training.
    """
    sizes = sorted({run.config["data"]["batch_size"] for run in runs}, reverse=True)
    panels = {
        size: [run for run in runs if run.config["data"]["batch_size"] == size] for size in sizes
    }
    titles = {size: f"batch size {size:,}" for size in sizes}
    figure, table = _draw_panels(
        "batch", panels, titles, 3, drawing.PRECONDITIONED_LABEL, _mid_training
    )
    lows, highs = zip(*(axes.get_ylim() for axes in figure.axes), strict=True)
    for axes in figure.axes:  # the thresholds are the same ones in all panels
        axes.set_ylim(min(lows), max(highs))
    return figure, table


def _mid_training(run: TrainingRun) -> dict[str, float]:
    """Median of the edge ratio over the middle half of the steps, and the largest of the run."""
    metrics = run.metrics
    part = metrics["step"] / run.summary.num_steps
    middle = metrics["edge_ratio"][(part >= 0.25) & (part <= 0.75)]
    return {"mid_ratio": middle.median(), "largest_ratio": metrics["edge_ratio"].max()}


def draw_fig08(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 8: loss, preconditioned sharpness and raw sharpness, one above the other."""
    return _draw_three(runs, settings_label(runs[0], ("beta_1", "beta_2")))


def draw_fig13(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 13: the sharpness without a preconditioner, one panel per optimizer."""
    return _draw_by_optimizer(runs, 3, drawing.SHARPNESS_LABEL)


def draw_fig15(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 15: loss and preconditioned sharpness at very small learning rates."""
    varied = ("learning_rate",)
    runs = ordered(runs, varied)
    names = [settings_label(run, varied) for run in runs]
    table = pd.DataFrame([{**table_row(run), **_rise(run)} for run in runs])
    figure = _draw_two(runs, _colours(runs, varied), names)
    figure.axes[0].set_title(settings_label(runs[0], ("beta_1", "beta_2")), fontsize="medium")
    return figure, table


def _rise(run: TrainingRun) -> dict[str, float]:
    """Edge ratio after half of the steps, and at the end."""
    metrics = run.metrics
    half = metrics["edge_ratio"][metrics["step"] <= run.summary.num_steps / 2]
    return {
        "ratio_at_half": half.iloc[-1] if len(half) else math.nan,
        "last_ratio": metrics["edge_ratio"].iloc[-1],
    }


def draw_fig16(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 16: loss and preconditioned sharpness of Adam, with P free and frozen."""
    runs = sorted(runs, key=lambda run: run.config["freeze_step"] or 0)
    steps = [run.config["freeze_step"] for run in runs]
    if len(set(steps)) < len(steps):
        raise UserError(
            "two runs have the same freeze_step; name a directory or an archive that holds only "
            "one of them"
        )
    names = [f"$P$ frozen at step {step}" if step else "Adam" for step in steps]
    figure = _draw_two(runs, sns.color_palette("colorblind", len(runs)), names)
    for axes in figure.axes:
        for step in filter(None, steps):
            axes.axvline(step, color="0.5", linewidth=0.8, linestyle=":")
    figure.axes[0].set_title(settings_label(runs[0], SYMBOLS), fontsize="medium")
    return figure, pd.DataFrame(
        [
            {"freeze_step": step, **table_row(run), **_rise(run)}
            for step, run in zip(steps, runs, strict=True)
        ]
    )


def draw_quickstart(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw loss and preconditioned sharpness of the quickstart, one colour per seed."""
    runs = sorted(runs, key=lambda run: run.config["seed"])
    seeds = [run.config["seed"] for run in runs]
    colours = list(sns.color_palette("colorblind", len(runs)))
    figure = _draw_two(runs, colours, [f"seed {seed}" for seed in seeds])
    rows = [{"seed": seed, **table_row(run)} for seed, run in zip(seeds, runs, strict=True)]
    return figure, pd.DataFrame(rows)


def _draw_two(runs: list[TrainingRun], colours: list[Any], names: list[str]) -> Figure:
    """Draw loss and preconditioned sharpness, one above the other."""
    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    metrics = [run.metrics for run in runs]
    draw_loss(above, metrics, colours)
    _draw_preconditioned_sharpness(below, metrics, colours)
    below.set_xlabel("step")
    _legend(below, names)
    return figure


def _draw_three(runs: list[TrainingRun], title: str) -> tuple[Figure, pd.DataFrame]:
    """Draw loss, preconditioned and raw sharpness of runs that differ in the learning rate."""
    varied = ("learning_rate",)
    runs = ordered(runs, varied)
    figure = Figure(figsize=(6.0, 8.0), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    metrics, colours = [run.metrics for run in runs], _colours(runs, varied)
    draw_loss(axes[0], metrics, colours)
    _draw_preconditioned_sharpness(axes[1], metrics, colours)
    drawing.draw_curves(axes[2], metrics, colours, "sharpness")
    axes[0].set_title(title, fontsize="medium")
    axes[2].set_ylabel(drawing.SHARPNESS_LABEL)
    axes[2].set_xlabel("step")
    verdicts = [" (diverged)" if run.record["status"] == "diverged" else "" for run in runs]
    labels = [settings_label(run, varied) for run in runs]
    _legend(axes[2], [label + verdict for label, verdict in zip(labels, verdicts, strict=True)])
    return figure, pd.DataFrame([table_row(run) for run in runs])


def _draw_by_optimizer(
    runs: list[TrainingRun], num_columns: int, label: str
) -> tuple[Figure, pd.DataFrame]:
    """Draw the preconditioned sharpness of runs that differ in optimizer and learning rate."""
    panels = {name: [run for run in runs if run.optimizer == name] for name in TITLES}
    titles = {
        name: rf"{TITLES[name]} ($\lambda^* = {_threshold_by_rate(members[0]):.4g} / \eta$)"
        for name, members in panels.items()
        if members
    }
    return _draw_panels("optimizer", panels, titles, num_columns, label)


def _threshold_by_rate(run: TrainingRun) -> float:
    """The stability threshold times the learning rate."""
    return run.summary.threshold * run.setting("learning_rate")


def _draw_panels(
    key: str,
    panels: dict[Any, list[TrainingRun]],
    titles: dict[Any, str],
    num_columns: int,
    label: str,
    measures: Callable[[TrainingRun], dict[str, float]] = lambda run: {},
) -> tuple[Figure, pd.DataFrame]:
    """Draw the preconditioned sharpness of runs that differ in the learning rate, in named panels.

    The table has the panel's name in the column `key`, and the `measures` of each run.
    """
    varied = ("learning_rate",)
    panels = {name: members for name, members in panels.items() if members}
    num_rows = -(-len(panels) // num_columns)
    num_columns = min(num_columns, len(panels))
    figure = Figure(figsize=(1.0 + 3.4 * num_columns, 4.2 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    rows = []
    for index, ((name, members), axes) in enumerate(zip(panels.items(), grid.flat, strict=False)):
        members = ordered(members, varied)
        colours = _colours(members, varied)
        _draw_preconditioned_sharpness(axes, [run.metrics for run in members], colours)
        axes.set_title(titles[name], fontsize="medium")
        axes.set_ylabel("" if index % num_columns else label)
        axes.set_xlabel("step")
        _legend(axes, [settings_label(run, varied) for run in members])
        rows += [{key: name, **table_row(run), **measures(run)} for run in members]
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure, pd.DataFrame(rows)


def _draw_preconditioned_sharpness(
    axes: Axes, tables: list[pd.DataFrame], colours: list[Any]
) -> None:
    drawing.draw_preconditioned_sharpness(axes, tables, colours)
    _label_decades(axes)


def _label_decades(axes: Axes) -> None:
    """Label a log axis at powers of ten, below two decades at 2 and 5 times them, too."""
    if axes.get_yscale() != "log":
        return
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        every = LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf))
        axes.yaxis.set_major_formatter("{x:,g}" if high < 10_000 else every)


def _colours(runs: list[TrainingRun], varied: Sequence[str]) -> list[Any]:
    """Choose one colour per run: the first setting decides the hue, a second one the shade."""
    if len(varied) == 1:
        return list(sns.color_palette("colorblind", len(runs)))
    colours: list[Any] = []
    hues = sorted({run.setting(varied[0]) for run in runs})
    for index, hue in enumerate(hues):
        count = sum(run.setting(varied[0]) == hue for run in runs)
        shades = ("Blues", "Oranges", "Greens", "Purples")[index % 4]
        colours += sns.color_palette(shades, count + 2)[2:]
    return colours


def _legend(axes: Axes, labels: Sequence[str]) -> None:
    entries = list(zip(axes.get_lines(), labels, strict=False))
    # Last in a column: in the first of two where both have as many runs, so that runs of one hue
    # stand below each other.
    place = len(entries) if len(entries) % 2 else len(entries) // 2
    entries.insert(place, (drawing.dashes(), "stability threshold"))
    axes.legend(
        *zip(*entries, strict=True),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=2,
        fontsize="small",
        frameon=False,
        columnspacing=1.2,
    )


FIGURES: Figures = {
    "fig01": (read_runs, draw_fig01),
    "fig03": (read_runs, draw_fig03),
    "fig04": (read_fig04, draw_fig04),
    "fig05": (read_runs, draw_fig05),
    "fig06": (read_runs, draw_fig06),
    "fig08": (read_runs, draw_fig08),
    "fig13": (read_runs, draw_fig13),
    "fig15": (read_runs, draw_fig15),
    "fig16": (read_fig16, draw_fig16),
    "quickstart": (read_runs, draw_quickstart),
}
