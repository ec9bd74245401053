"""Draw a figure of the paper from the directories of its runs.

    python tools/figures.py fig01 runs/fig01/laptop --out figures

writes `fig01.png` and the table `fig01.csv`, and prints the table as Markdown: for each run the
stability threshold, the median edge ratio R and whether 0.9 <= R <= 1.15.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers import report, run_directory
from trainers.errors import UserError
from trainers.schema import DATASETS


@dataclass(frozen=True)
class Run:
    """One finished run, read from its directory."""

    directory: Path
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: pd.DataFrame
    summary: report.EdgeSummary

    def setting(self, name: str) -> float:
        """A number of the `optimizer` section."""
        return self.config["optimizer"].get(name, math.nan)


@dataclass(frozen=True)
class Panel:
    """A column of a figure: its title and the settings that tell its runs apart."""

    title: str
    varied: tuple[str, ...]


PANELS = {
    "a": Panel("step size", ("learning_rate",)),
    "b": Panel("momentum", ("beta_1",)),
    "c": Panel("decay of the preconditioner", ("learning_rate", "beta_2")),
}
SYMBOLS = {"learning_rate": r"\eta", "beta_1": r"\beta_1", "beta_2": r"\beta_2"}


def draw_fig01(runs: list[Run]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 1: a column a panel; loss above, preconditioned sharpness below."""
    by_panel = {
        name: [run for run in runs if run.record["choices"].get("panel") == name] for name in PANELS
    }
    present = [name for name in PANELS if by_panel[name]]
    figure = Figure(figsize=(1.0 + 3.7 * len(present), 6.4), layout="constrained")
    axes = figure.subplots(2, len(present), sharex="col", squeeze=False)
    rows = []
    for name, (above, below) in zip(present, axes.T, strict=True):
        varied = PANELS[name].varied
        members = _sorted(by_panel[name], varied)
        common = _label(members[0], [other for other in SYMBOLS if other not in varied])
        above.set_title(f"({name}) {PANELS[name].title}\n{common}", fontsize="medium")
        metrics, colours = [run.metrics for run in members], _colours(members, varied)
        report.draw_loss(above, metrics, colours)
        report.draw_preconditioned_sharpness(below, metrics, colours)
        below.set_xlabel("step")
        _legend(below, members, varied)
        rows += [{"panel": name, **_row(run)} for run in members]
    return figure, pd.DataFrame(rows)


def draw_fig08(runs: list[Run]) -> tuple[Figure, pd.DataFrame]:
    """Draw Figure 8: loss, preconditioned sharpness and raw sharpness, one above the other."""
    varied = ("learning_rate",)
    runs = _sorted(runs, varied)
    figure = Figure(figsize=(6.0, 8.0), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    metrics, colours = [run.metrics for run in runs], _colours(runs, varied)
    report.draw_loss(axes[0], metrics, colours)
    report.draw_preconditioned_sharpness(axes[1], metrics, colours)
    report.draw_curves(axes[2], metrics, colours, "sharpness")
    axes[0].set_title(_label(runs[0], ("beta_1", "beta_2")), fontsize="medium")
    axes[2].set_ylabel(report.SHARPNESS_LABEL)
    axes[2].set_xlabel("step")
    _legend(axes[2], runs, varied)
    return figure, pd.DataFrame([_row(run) for run in runs])


FIGURES: dict[str, Callable[[list[Run]], tuple[Figure, pd.DataFrame]]] = {
    "fig01": draw_fig01,
    "fig08": draw_fig08,
}


def read_runs(root: Path, figure: str) -> list[Run]:
    """Read the runs of a figure, wherever they are below `root`.

    Raises:
        UserError: There are none, or one can't be drawn.
    """
    if not root.is_dir():
        raise UserError(f"no such directory. Received: {root}")
    records = {path.parent: _read_record(path) for path in sorted(root.rglob(run_directory.RUN))}
    if not records:
        raise UserError(f"no runs below {root}: expected directories that hold a run.json")
    chosen = {
        directory: record
        for directory, record in records.items()
        if record["choices"].get("config_name") == figure
    }
    if not chosen:
        raise UserError(
            f"none of the {len(records)} runs below {root} is of {figure}; make them with "
            f"'python -m trainers --config-name {figure}'"
        )
    return [_read_run(directory, record) for directory, record in chosen.items()]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = run_directory.read(path.parent)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return {"choices": {}, **record}


def _read_run(directory: Path, record: dict[str, Any]) -> Run:
    if record.get("status") not in run_directory.FINISHED:
        raise UserError(
            f"{directory} is half-written (status: {record.get('status')}); let it finish, or "
            "start its command again, which goes on where it stopped"
        )
    config_path, path = (directory / name for name in (run_directory.CONFIG, run_directory.METRICS))
    for needed in (config_path, path):
        if not needed.exists():
            raise UserError(f"{directory} is incomplete: it has no {needed.name}")
    try:
        metrics = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are of this type
        raise UserError(f"{path} is not a table of measurements: {error}") from error
    missing = [column for column in report.COLUMNS if column not in metrics]
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(missing)}")
    config: Any = OmegaConf.to_container(OmegaConf.load(config_path))
    summary = report.edge_summary(metrics, config["loss"], record.get("first_loss"))
    return Run(directory, config, record, metrics, summary)


def _sorted(runs: list[Run], varied: Sequence[str]) -> list[Run]:
    runs = sorted(runs, key=lambda run: [run.setting(name) for name in varied])
    for run, following in pairwise(runs):
        if all(run.setting(name) == following.setting(name) for name in varied):
            raise UserError(
                f"{run.directory} and {following.directory} have the same {' and '.join(varied)}; "
                "name a directory that holds one of them"
            )
    return runs


def _colours(runs: list[Run], varied: Sequence[str]) -> list[Any]:
    """A colour a run; of two settings the first decides the hue and the second the shade."""
    if len(varied) == 1:
        return list(sns.color_palette("colorblind", len(runs)))
    colours: list[Any] = []
    hues = sorted({run.setting(varied[0]) for run in runs})
    for index, hue in enumerate(hues):
        count = sum(run.setting(varied[0]) == hue for run in runs)
        shades = ("Blues", "Oranges", "Greens", "Purples")[index % 4]
        colours += sns.color_palette(shades, count + 2)[2:]
    return colours


def _legend(axes: Axes, runs: list[Run], varied: Sequence[str]) -> None:
    entries = list(zip(axes.get_lines(), [_label(run, varied) for run in runs], strict=False))
    # Last in the first of two columns, so that runs of one hue stand below each other.
    entries.insert((len(entries) + 1) // 2, (report.dashes(), "stability threshold"))
    axes.legend(
        *zip(*entries, strict=True),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=2,
        fontsize="small",
        frameon=False,
        columnspacing=1.2,
    )


def _label(run: Run, names: Sequence[str]) -> str:
    return ", ".join(f"${SYMBOLS[name]} = {_mathtext(run.setting(name))}$" for name in names)


def _mathtext(value: float) -> str:
    r"""A number as mathtext; small ones as a power of ten.

    >>> print(_mathtext(0.95), _mathtext(1e-4), _mathtext(3.2e-4))
    0.95 10^{-4} 3.2 \times 10^{-4}
    """
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if float(mantissa) == 1 else rf"{float(mantissa):g} \times {power}"


def _row(run: Run) -> dict[str, Any]:
    """What the table says of a run; None where there is nothing to say."""
    summary = run.summary
    data = run.config["data"]
    at_window = run.metrics.set_index("step")["sharpness"].get
    begin, end = map(at_window, summary.window) if summary.window else (None, None)
    return {
        **{name: run.setting(name) for name in SYMBOLS},
        "examples": data["num_examples"] or DATASETS[data["name"]].num_examples,
        "loss": run.config["loss"],
        "steps": summary.num_steps,
        "threshold": summary.threshold,
        "edge_step": summary.edge_step,
        "fit_step": summary.fit_step,
        "window": "{}-{}".format(*summary.window) if summary.window else None,
        "R": summary.ratio,
        "claim_holds": summary.holds if summary.window else None,
        "R_to_end": summary.ratio_to_end,
        "sharpness_begin": begin,
        "sharpness_end": end,
        "remark": _remark(run),
    }


def _remark(run: Run) -> str:
    remarks = []
    if run.record["status"] == "diverged":
        remarks.append("diverged")
    if run.summary.edge_step is None:
        remarks.append("edge not reached")
    elif run.summary.window is None:
        remarks.append("no window: fitted before the edge")
    return ", ".join(remarks)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, numbers to four digits."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[cell(value) for value in row] for row in table.astype(object).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Draw the figure that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/figures.py", description="Draw a figure of the paper from its runs."
    )
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="searched for runs of the figure")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    options = parser.parse_args(arguments)
    try:
        runs = read_runs(options.runs, options.figure)
        with sns.axes_style("ticks"):
            figure, table = FIGURES[options.figure](runs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    sns.despine(figure)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / f"{options.figure}.png", dpi=200)
    table.to_csv(options.out / f"{options.figure}.csv", index=False)
    print(markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
