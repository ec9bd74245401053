"""Figures 10, 11 and 19 of the paper: how sharp the solutions of optimizers are.

A run's solution is where its training loss first reaches `monitor.loss_threshold`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from keras_aeos.summaries import drawing
from tools.plotting.runs import Figures, Run, find_all_runs, ordered, read_table
from tools.plotting.training_runs import TrainingRun, num_examples, read_run, read_runs
from trainers import run_directory
from trainers.errors import UserError

FIG11_NETWORKS = {"wide_resnet": "wide ResNet", "fully_connected": "fully connected network"}
FIG11_OPTIMIZERS = {"adam": "Adam", "heavy_ball": "momentum"}
COLOURS = dict(zip(FIG11_OPTIMIZERS, sns.color_palette("colorblind"), strict=False))
VARIED = {"learning_rate": r"learning rate $\eta$", "beta_2": r"$1 - \beta_2$"}


def read_fig10(root: Path, figure: str) -> list[TrainingRun]:
    """Read the runs of Figure 10, which Figure 19 shares.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    return read_runs(root, "fig10")


def read_fig11(root: Path, figure: str) -> list[TrainingRun]:
    """Read the runs of Figure 11; Figure 10 stands in for missing ones of Adam on the wide ResNet.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    found = find_all_runs(root, "fig11", "fig11_fully_connected", "fig10")
    own = [run for run in found if run.record["choices"]["config_name"] != "fig10"]
    if not any(_network(run) == "wide_resnet" and _optimizer(run) == "adam" for run in own):
        own += [run for run in found if run.record["choices"].get("fig10") == "learning_rate"]
    return [read_run(run) for run in own]


def draw_fig10(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 10: the sharpness of solutions against the learning rate and β₂."""
    return _draw_against(runs, "sharpness", drawing.SHARPNESS_LABEL, _sharpness)


def draw_fig19(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 19: the test error of solutions against the learning rate and β₂."""
    return _draw_against(runs, "test_error", "test error", _test_error)


def draw_fig11(runs: list[TrainingRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 11: sharpness of solutions against the number of steps, Adam and momentum.

    Lines join solutions in the order of the learning rate. Beyond the fastest rate training takes
    more steps again, so that two rates take equally many; from there on nothing is compared.
    The table has for each other solution of Adam the ratio of its sharpness to that of momentum
    after as many steps, by the line through momentum's solutions on logarithmic axes; none where
    momentum has no slower or no faster solution.
    """
    runs = [run for run in runs if _optimizer(run) in FIG11_OPTIMIZERS]
    panels = sorted({(_network(run), _batch(run)) for run in runs}, reverse=True)
    figure, grid = _panels(len(panels))
    rows = []
    for (network, batch), axes in zip(panels, grid, strict=True):
        curves = {}
        for name in FIG11_OPTIMIZERS:
            members = [
                run
                for run in runs
                if (_network(run), _batch(run), _optimizer(run)) == (network, batch, name)
            ]
            points = pd.DataFrame(
                {
                    "network": network,
                    "batch": batch,
                    "optimizer": name,
                    "learning_rate": run.setting("learning_rate"),
                    "steps": run.record.get("solution_step"),
                    "sharpness": _sharpness(run),
                }
                for run in ordered(members, ["learning_rate"])
            )
            curves[name] = points
            if len(points):
                solved = points.dropna(subset="sharpness")
                axes.plot(
                    *(solved["steps"], solved["sharpness"]),
                    marker="o",
                    color=COLOURS[name],
                    label=FIG11_OPTIMIZERS[name],
                )
        _finish(axes, "steps to the solution", drawing.SHARPNESS_LABEL)
        examples = max(num_examples(run) for run in runs if _network(run) == network)
        title = f"{FIG11_NETWORKS[network]},\n{_batch_name(batch, examples)}"
        axes.set_title(title, fontsize="medium")
        axes.legend(frameon=False, fontsize="small")
        adam, momentum = curves["adam"], curves["heavy_ball"]
        if len(adam) and len(momentum):
            adam["ratio_to_momentum"] = _at_equal_steps(adam, momentum)
        rows += [adam, momentum]
    return figure, pd.concat([table for table in rows if len(table)], ignore_index=True)


def _at_equal_steps(points: pd.DataFrame, line: pd.DataFrame) -> np.ndarray:
    """Divide each point's sharpness by the line's at equal steps; NaN outside of the line."""
    known = _up_to_the_fastest(line).sort_values("steps")
    if len(known) < 2:
        return np.full(len(points), math.nan)
    slower = points.index.isin(_up_to_the_fastest(points).index)
    steps = points["steps"].where(slower).to_numpy(float)
    at = np.interp(
        *(np.log(steps), np.log(known["steps"].to_numpy(float)), np.log(known["sharpness"])),
        left=math.nan,
        right=math.nan,
    )
    return points["sharpness"].to_numpy(float) / np.exp(at)


def _up_to_the_fastest(points: pd.DataFrame) -> pd.DataFrame:
    """Select the solutions of rising learning rates up to the one of fewest steps."""
    solved = points.dropna(subset="sharpness")
    # The last of several equally fast ones.
    return solved.loc[: solved["steps"][::-1].idxmin()] if len(solved) else solved


def _draw_against(
    runs: list[TrainingRun], name: str, label: str, value: Callable[[TrainingRun], float]
) -> tuple[Figure, pd.DataFrame]:
    """Draw a value of solutions against η and β₂, one panel per batch size.

    The table also has the rank correlation (Spearman's) of the value with what varies in the panel,
    η or 1 - β₂.
    """
    panels = sorted(
        {(_batch(run), run.record["choices"].get("fig10", "")) for run in runs},
        key=lambda panel: (-panel[0], -(panel[1] == "learning_rate")),
    )
    if any(varied not in VARIED for _, varied in panels):
        raise UserError("a run of fig10 does not say what it varies: expected fig10 in its choices")
    figure, grid = _panels(len(panels), sharey=True)
    tables: list[pd.DataFrame] = []
    for (batch, varied), axes in zip(panels, grid, strict=True):
        members = ordered(
            [r for r in runs if (_batch(r), r.record["choices"]["fig10"]) == (batch, varied)],
            [varied],
        )
        table = pd.DataFrame(
            {
                "panel": varied,
                "batch": batch,
                "learning_rate": run.setting("learning_rate"),
                "beta_2": run.setting("beta_2"),
                "steps": run.record.get("solution_step"),
                name: value(run),
            }
            for run in members
        )
        x = table["learning_rate"] if varied == "learning_rate" else 1.0 - table["beta_2"]
        if table[name].nunique() > 1:
            table["rank_correlation"] = x.corr(table[name], method="spearman")
        axes.plot(x, table[name], marker="o", color=COLOURS["adam"])
        _finish(axes, VARIED[varied], "" if tables else label)
        if name == "test_error":
            axes.set_yscale("linear")
        axes.set_title(_batch_name(batch, num_examples(members[0])), fontsize="medium")
        tables.append(table)
    return figure, pd.concat(tables, ignore_index=True)


def _panels(count: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(0.6 + 3.0 * columns, 0.4 + 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if low > 1 and high < 30 * low:  # too short for powers of ten alone
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(4))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


def _sharpness(run: TrainingRun) -> float:
    """λ₁(H) at the solution; NaN for a run without one."""
    found = run.metrics.loc[run.metrics["step"] == run.record.get("solution_step"), "sharpness"]
    return float(found.iloc[0]) if len(found) else math.nan


def _test_error(run: TrainingRun) -> float:
    """Test error when the training loss first reached `evaluation.loss_threshold`; NaN if never."""
    table = read_table(run.directory, run_directory.EVALUATION, run_directory.EVALUATION_COLUMNS)
    threshold = run.config["evaluation"]["loss_threshold"]
    found = table.loc[table["training_loss"] <= (threshold or 0.0), "test_error"]
    return float(found.iloc[0]) if len(found) else math.nan


def _network(run: Run) -> str:
    return run.config["model"]["name"]


def _optimizer(run: Run) -> str:
    return run.config["optimizer"]["name"]


def _batch(run: Run) -> int:
    """Number of examples per update."""
    settings: dict[str, Any] = run.config["data"]
    return settings["batch_size"] or settings["num_examples"]


def _batch_name(batch: int, examples: int) -> str:
    return f"full batch ({batch:,})" if batch >= examples else f"batches of {batch:,}"


FIGURES: Figures = {
    "fig10": (read_fig10, draw_fig10),
    "fig11": (read_fig11, draw_fig11),
    "fig19": (read_fig10, draw_fig19),
}
