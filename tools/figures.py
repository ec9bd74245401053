"""Draw a figure of the paper from its runs.

    python tools/figures.py fig01 runs/fig01/laptop --out figures

writes `fig01.png` and the table `fig01.csv`, and prints the table as Markdown. For runs that train
a network the table gives the stability threshold, the median edge ratio R and whether R is within
the range that the paper claims.

    python tools/figures.py summary runs/fig01/laptop --out figures

draws a page of each run: loss, both sharpnesses with the threshold, edge ratio and norms. It writes
`RUN.png` and `RUN.pdf`, the same bytes for the same input, and prints the numbers of the runs.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_aeos.summaries import picture
from keras_aeos.summaries.runs import RunError, read_runs
from keras_aeos.summaries.table import table as table_of_runs
from tools.plotting import crossings, edge, quadratic, solutions, warmup
from tools.plotting.runs import Figures
from trainers.errors import UserError

FIGURES: Figures = {
    **quadratic.FIGURES,
    **edge.FIGURES,
    **crossings.FIGURES,
    **solutions.FIGURES,
    **warmup.FIGURES,
}

# Not a figure of the paper: a page of any run.
SUMMARY = "summary"


def draw(name: str, root: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw a figure, with its table, from the runs below `root`.

    Raises:
        UserError: The runs are missing, or one cannot be drawn.
    """
    read_runs, draw_runs = FIGURES[name]
    runs = read_runs(root, name)
    with sns.axes_style("ticks"):
        figure, table = draw_runs(runs)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    sns.despine(figure)
    return figure, table


def markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown, numbers to four digits."""

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
    parser.add_argument(
        "figure", choices=[*sorted(FIGURES), SUMMARY], help="a figure, or a page of each run"
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUNS",
        help="directory of runs or archives, or an archive; several for a summary",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to write; default: the current directory",
    )
    options = parser.parse_args(arguments)
    if options.figure != SUMMARY and len(options.runs) > 1:
        parser.error(f"{options.figure}: expected one RUNS. Received: {len(options.runs)}")
    try:
        if options.figure == SUMMARY:
            return _summarise(options.runs, options.out)
        figure, table = draw(options.figure, options.runs[0])
        options.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.out / f"{options.figure}.png", dpi=200)
        table.to_csv(options.out / f"{options.figure}.csv", index=False)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out: {error.strerror}. Received: {options.out}", file=sys.stderr)
        return 2
    print(markdown(table))
    return 0


def _summarise(places: Sequence[Path], out: Path) -> int:
    runs = read_runs(places)
    picture.save_all(runs, out)
    print(table_of_runs(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
