"""Draw a figure of the paper from the directories of its runs.

    python tools/figures.py fig01 runs/fig01/laptop --out figures

writes `fig01.png` and the table `fig01.csv`, and prints the table as Markdown. For runs that train
a network it says of each the stability threshold, the median edge ratio R and whether R lies where
the paper has it.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.plotting import crossings, edge, quadratic, solutions, warmup
from trainers.errors import UserError

Draw = Callable[[list[Any]], tuple[Figure, pd.DataFrame]]
# name: how its runs are read and how they are drawn
FIGURES: dict[str, tuple[Callable[[Path, str], list[Any]], Draw]] = {
    "fig01": (edge.read_runs, edge.draw_fig01),
    "fig02": (quadratic.read_runs, quadratic.draw_fig02),
    "fig03": (edge.read_runs, edge.draw_fig03),
    "fig04": (edge.read_fig04, edge.draw_fig04),
    "fig05": (edge.read_runs, edge.draw_fig05),
    "fig06": (edge.read_runs, edge.draw_fig06),
    "fig07": (warmup.read_runs, warmup.draw_fig07),
    "fig08": (edge.read_runs, edge.draw_fig08),
    "fig09": (crossings.read_runs, crossings.draw_fig09),
    "fig10": (solutions.read_fig10, solutions.draw_fig10),
    "fig11": (solutions.read_fig11, solutions.draw_fig11),
    "fig12": (quadratic.read_runs, quadratic.draw_fig12),
    "fig13": (edge.read_runs, edge.draw_fig13),
    "fig14": (quadratic.read_runs, quadratic.draw_fig14),
    "fig15": (edge.read_runs, edge.draw_fig15),
    "fig16": (edge.read_fig16, edge.draw_fig16),
    "fig17": (quadratic.read_runs, quadratic.draw_fig17),
    "fig18": (crossings.read_runs, crossings.draw_fig18),
    "fig19": (solutions.read_fig10, solutions.draw_fig19),
}


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
        read_runs, draw = FIGURES[options.figure]
        runs = read_runs(options.runs, options.figure)
        with sns.axes_style("ticks"):
            figure, table = draw(runs)
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
