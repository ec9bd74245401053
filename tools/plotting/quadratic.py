"""Figures 2, 12, 14, 17 and Table 1 of the paper, from runs of the optimizers on a quadratic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tools.plotting.runs import Figures, Run, find_runs, ordered, read_table, settings_label
from trainers import run_directory
from trainers.errors import UserError

DOTTED: dict[str, Any] = {"color": "0.3", "linestyle": (0, (1, 2)), "linewidth": 1.3}
DASHED: dict[str, Any] = {"linestyle": (0, (5, 2)), "linewidth": 1.1}
# What Figure 12 holds fixed in its left column, and what in its right one.
FIXED = {"learning_rate": 2.2, "beta_2": 0.999}
COLUMNS_OF_FIG12 = (("learning_rate", "beta_2"), ("beta_2", "learning_rate"))


@dataclass(frozen=True)
class QuadraticRun(Run):
    """One finished run on a quadratic, with its trajectory: one row per step, from the start."""

    trajectory: pd.DataFrame

    @property
    def curvature(self) -> float:
        """Curvature λ of the quadratic."""
        return self.record["curvature"]

    @property
    def threshold(self) -> float:
        """Stability threshold λ* for P = 1."""
        return self.record["stability_threshold"]

    @property
    def edge_ratio(self) -> float:
        """λ/λ*."""
        return self.curvature / self.threshold


def read_runs(root: Path, figure: str) -> list[QuadraticRun]:
    """Read the runs of a figure.

    Raises:
        UserError: There are none, or one cannot be drawn.
    """
    return [_read_run(run) for run in find_runs(root, figure)]


def _read_run(run: Run) -> QuadraticRun:
    columns = run_directory.TRAJECTORY_COLUMNS
    trajectory = read_table(run.directory, run_directory.TRAJECTORY, columns)
    return QuadraticRun(run.directory, run.config, run.record, trajectory)


def draw_fig02(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 2: the objective against the step, one curve per learning rate."""
    runs = ordered(runs, ["learning_rate"])
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for run, colour in zip(runs, sns.color_palette("colorblind", len(runs)), strict=True):
        verdict = "stable" if run.edge_ratio < 1 else "unstable"
        text = f"{settings_label(run, ['learning_rate'])} ({verdict})"
        table = run.trajectory
        axes.plot(table["step"], table["objective"], color=colour, label=text)
    axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel="step", ylabel=r"objective $f(x_t)$", xlim=(0, None))
    common = rf"{settings_label(runs[0], ['beta_1'])}, $\lambda = {runs[0].curvature:g}$"
    axes.set_title(f"{_optimizer(runs[0])}, {common}", fontsize="medium")
    axes.legend(fontsize="small", frameon=False)
    return figure, pd.DataFrame([_fig02_row(run) for run in runs])


def _fig02_row(run: QuadraticRun) -> dict[str, Any]:
    objective = run.trajectory["objective"]
    end = objective.iloc[-max(1, len(objective) // 10) :]
    return {
        "learning_rate": run.setting("learning_rate"),
        "curvature": run.curvature,
        "threshold": run.threshold,
        "edge_ratio": run.edge_ratio,
        "stable_by_theory": run.edge_ratio < 1,
        "first_objective": objective.iloc[0],
        "final_objective": objective.iloc[-1],
        "converged": run.record["status"] == "completed" and bool(end.max() < objective.iloc[0]),
    }


def draw_fig12(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 12: |x| above, ν below; β₂ varies on the left, the learning rate on the right.

    The dashed line is the ν above which RMSprop is stable. A run in both columns has one colour.
    """
    runs = ordered(runs, ["learning_rate", "beta_2"])
    drawn = [run for run in runs if any(run.setting(name) == FIXED[name] for name in FIXED)]
    palette = sns.color_palette("colorblind", len(drawn))
    colours = {run.directory: colour for run, colour in zip(drawn, palette, strict=True)}
    figure = Figure(figsize=(8.4, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for (fixed, varied), (above, below) in zip(COLUMNS_OF_FIG12, panels.T, strict=True):
        members = [run for run in drawn if run.setting(fixed) == FIXED[fixed]]
        if not members:
            raise UserError(
                f"no run has {fixed}={FIXED[fixed]}, which one column of the figure needs"
            )
        above.set_title(settings_label(members[0], [fixed]), fontsize="medium")
        shared = len({_stable_moment(run) for run in members}) == 1
        for run in members:
            table, colour = run.trajectory, colours[run.directory]
            text = settings_label(run, [varied])
            above.plot(table["step"], table["iterate"].abs(), color=colour, label=text)
            below.plot(table["step"], table["second_moment"], color=colour)
            below.axhline(_stable_moment(run), color="0.3" if shared else colour, **DASHED)
        above.set_yscale("log", nonpositive="mask")
        above.legend(loc="lower left", fontsize="small", frameon=False)
        below.set(xlabel="step", xlim=(0, None))
    panels[1, 0].legend(
        [Line2D([], [], color="0.3", **DASHED)],
        ["edge of stability"],
        loc="upper left",
        fontsize="small",
        frameon=False,
    )
    panels[0, 0].set_ylabel(r"distance $|x_t|$ from the minimum")
    panels[1, 0].set_ylabel(r"second moment $\nu_t$")
    return figure, pd.DataFrame([_fig12_row(run) for run in runs])


def _stable_moment(run: QuadraticRun) -> float:
    """The ν for which ``λ/(√ν + ε)`` is the stability threshold."""
    return (run.edge_ratio - run.setting("epsilon")) ** 2


def _fig12_row(run: QuadraticRun) -> dict[str, Any]:
    table = run.trajectory.set_index("step")
    distance, moment = table["iterate"].abs(), table["second_moment"]
    peak_step = distance.idxmax()
    stable = moment.index[moment > _stable_moment(run)]
    return {
        "learning_rate": run.setting("learning_rate"),
        "beta_2": run.setting("beta_2"),
        "first_edge_ratio": run.edge_ratio / (np.sqrt(moment[0]) + run.setting("epsilon")),
        "peak_step": peak_step,
        "peak_distance": distance.max(),
        "stable_step": stable[0] if len(stable) else None,
        "lowest_after_peak": distance[peak_step:].min(),
        "final_distance": distance.iloc[-1],
        "healed": bool(distance[peak_step:].min() < distance[0]),
    }


def draw_fig14(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 14: growth factor against eigenvalue, theory and measured, per optimizer."""
    figure, table = _draw_growth(sorted(runs, key=lambda run: run.setting("name")))
    return figure, table.drop(columns="algorithm")


def _draw_growth(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw growth factors, a panel per optimizer in the order of the runs."""
    # TensorFlow takes seconds to import, and the other figures do without.
    from trainers.quadratic import recurrence
    from trainers.schema import OPTIMIZERS

    by_optimizer: dict[tuple, list[QuadraticRun]] = {}
    for run in runs:
        by_optimizer.setdefault(tuple(run.config["optimizer"].values()), []).append(run)
    figure = Figure(figsize=(1.0 + 3.4 * len(by_optimizer), 3.8), layout="constrained")
    panels = figure.subplots(1, len(by_optimizer), sharey=True, squeeze=False)[0]
    colours = sns.color_palette("colorblind", len(by_optimizer))
    rows = []
    for axes, colour, of_optimizer in zip(panels, colours, by_optimizer.values(), strict=True):
        members = sorted(of_optimizer, key=lambda run: run.curvature)
        section = members[0].config["optimizer"]
        theory = recurrence(OPTIMIZERS[section["name"]](**section))
        threshold = theory.stability_threshold()
        eigenvalues = np.linspace(0.0, 1.1 * threshold, 1001)
        axes.plot(eigenvalues, theory.growth_factor(eigenvalues), color=colour, label="theory")
        measured = [growth_factor(run.trajectory["iterate"].to_numpy()) for run in members]
        curvatures = [run.curvature for run in members]
        axes.plot(curvatures, measured, "o", color=colour, label="measured")
        axes.axvline(threshold, label=r"threshold $\lambda^*$", **DOTTED)
        axes.axhline(1.0, color="0.3", linewidth=0.8)
        settings = settings_label(
            members[0], [n for n in ("learning_rate", "beta_1") if n in section]
        )
        axes.set_title(f"{_optimizer(members[0])}\n{settings}", fontsize="medium")
        axes.set(xlabel=r"eigenvalue $\lambda$", xlim=(0, None))
        for run, value in zip(members, measured, strict=True):
            expected = float(theory.growth_factor(run.curvature))
            rows.append(
                {
                    "algorithm": _optimizer(run),
                    "optimizer": section["name"],
                    "learning_rate": run.setting("learning_rate"),
                    "curvature": run.curvature,
                    "threshold": threshold,
                    "edge_ratio": run.edge_ratio,
                    "growth_factor": expected,
                    "measured": value,
                    "error": abs(value - expected),
                }
            )
    panels[0].set_ylabel(r"growth factor $\rho(\lambda)$")
    panels[0].set_ylim(bottom=-0.05)
    panels[0].legend(loc="lower left", fontsize="small", frameon=False)
    return figure, pd.DataFrame(rows)


def draw_table01(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw the growth factors of Table 1's algorithms, with a row of the table for each.

    Raises:
        UserError: An algorithm was not run on both sides of its threshold.
    """
    runs = sorted(runs, key=lambda run: (run.setting("name"), run.setting("ema") is True))
    figure, measured = _draw_growth(runs)
    rows = []
    for name, members in measured.groupby("algorithm", sort=False):
        below, above = (
            members[side] for side in (members["edge_ratio"] < 1, members["edge_ratio"] > 1)
        )
        if below.empty or above.empty:
            raise UserError(f"{name}: expected a run below the threshold and one above it")
        nearest = below.loc[below["edge_ratio"].idxmax()], above.loc[above["edge_ratio"].idxmin()]
        rows.append(
            {
                "algorithm": name,
                "learning_rate": members["learning_rate"].iloc[0],
                "threshold": members["threshold"].iloc[0],
                "below": nearest[0]["edge_ratio"],
                "growth_below": nearest[0]["measured"],
                "above": nearest[1]["edge_ratio"],
                "growth_above": nearest[1]["measured"],
                "claim_holds": bool(nearest[0]["measured"] < 1 < nearest[1]["measured"]),
            }
        )
    return figure, pd.DataFrame(rows)


def growth_factor(iterates: np.ndarray) -> float:
    r"""Measure the factor by which iterates grow per step: the slope of ``log ‖(x_t, x_{t-1})‖``.

    The slope is fitted to all steps but the first quarter, with weights that fall off to both ends,
    so that an oscillation about the slope averages out. Numbers too small to be accurate are left
    out; iterates that vanish at once have the factor 0.

    >>> growth_factor(3.0 * (-0.5) ** np.arange(100))
    0.5
    """
    size = np.hypot(iterates[1:], iterates[:-1])
    [steps] = np.nonzero(size > np.finfo(np.float64).tiny / np.finfo(np.float64).eps)
    steps = steps[len(steps) // 4 :]
    if len(steps) < 3:
        return 0.0
    places = (np.arange(len(steps)) + 0.5) / len(steps)
    slope, _ = np.polyfit(steps, np.log(size[steps]), 1, w=np.sin(np.pi * places))
    return float(np.exp(slope))


def _optimizer(run: QuadraticRun) -> str:
    """Name the optimizer in words."""
    words = run.setting("name").replace("_", " ").replace("nesterov", "Nesterov")
    if "ema" not in run.config["optimizer"]:
        return words
    return f"{'EMA' if run.setting('ema') else 'standard'} {words}"


def draw_fig17(runs: list[QuadraticRun]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 17: iterate, momentum, squared gradient in rows; one column per learning rate."""
    runs = ordered(runs, ["learning_rate"])
    figure = Figure(figsize=(1.0 + 2.8 * len(runs), 6.0), layout="constrained")
    panels = figure.subplots(3, len(runs), sharex=True, squeeze=False)
    rows = {
        "iterate": r"iterate $x_t$",
        "first_moment": r"momentum $m_t$",
        "gradient_norm_squared": "squared gradient\n" r"$\|\nabla f(x_t)\|^2$",
    }
    colours = sns.color_palette("colorblind", len(rows))
    for run, column in zip(runs, panels.T, strict=True):
        text = rf"$\lambda/\lambda^* = {run.edge_ratio:.2f}$"
        column[0].set_title(f"{settings_label(run, ['learning_rate'])}, {text}", fontsize="medium")
        for axes, name, colour in zip(column, rows, colours, strict=True):
            values = run.trajectory[name]
            axes.plot(
                run.trajectory["step"], values, "o-", color=colour, markersize=3, linewidth=1.2
            )
            start = values.iloc[0] if axes is column[2] else 0.0
            axes.axhline(start, label="at the start", **DOTTED)
        column[2].set(xlabel="step", xlim=(0, None), ylim=(0, None))
    for axes, text in zip(panels[:, 0], rows.values(), strict=True):
        axes.set_ylabel(text)
    figure.align_ylabels(panels[:, 0])
    panels[2, 0].legend(fontsize="small", frameon=False)
    return figure, pd.DataFrame([_fig17_row(run) for run in runs])


def _fig17_row(run: QuadraticRun) -> dict[str, Any]:
    gradient = run.trajectory.set_index("step")["gradient_norm_squared"]
    return {
        "learning_rate": run.setting("learning_rate"),
        "threshold": run.threshold,
        "edge_ratio": run.edge_ratio,
        "first_squared_gradient": gradient[0],
        "largest_squared_gradient": gradient.max(),
        "largest_step": gradient.idxmax(),
        "final_squared_gradient": gradient.iloc[-1],
    }


FIGURES: Figures = {
    "fig02": (read_runs, draw_fig02),
    "fig12": (read_runs, draw_fig12),
    "fig14": (read_runs, draw_fig14),
    "fig17": (read_runs, draw_fig17),
    "table01": (read_runs, draw_table01),
}
