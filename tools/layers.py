"""Draw which layers the top eigenvector is in, from the logs of a monitor.

    python tools/layers.py RUN [--out layers.png]

reads `layers.csv` and `metrics.csv` of a directory of logs. A monitor that is asked for the
quantity `edge_layer` writes both. The picture shows the edge ratio and stacks the layers' shares
below it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# Layers with an area of their own; the others share one.
_MOST_LAYERS = 7
_OTHERS = "others"


def main(arguments: Sequence[str]) -> int:
    """Draw the run that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/layers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a monitor's logs")
    parser.add_argument(
        "--out", type=Path, default=Path("layers.png"), help="picture; default: layers.png"
    )
    options = parser.parse_args(arguments)
    try:
        layers = pd.read_csv(options.run / "layers.csv")
        metrics = pd.read_csv(options.run / "metrics.csv")
    except FileNotFoundError as error:
        print(f"error: {error}. Ask the monitor for `edge_layer`.", file=sys.stderr)
        return 2
    table = stacked(layers)
    draw(table, metrics).savefig(options.out, dpi=150)
    print(table.mean().sort_values(ascending=False).to_string(float_format="{:.3f}".format))
    return 0


def stacked(layers: pd.DataFrame) -> pd.DataFrame:
    """Shares with a row for each step and a column for each layer, the smallest ones together."""
    table = layers.pivot(index="step", columns="layer", values="share")
    table = table[layers["layer"].unique()]
    small = table.columns.difference(table.max().nlargest(_MOST_LAYERS).index)
    kept = table.drop(columns=small)
    return kept.assign(**{_OTHERS: table[small].sum(axis="columns")}) if len(small) else kept


def draw(table: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """The picture of a table of shares and the rows of the same run."""
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(9.5, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    above.plot(metrics["step"], metrics["edge_ratio"], color="black", marker=".")
    above.axhline(1.0, color="gray", linestyle="--")
    above.set(ylabel="edge ratio", yscale="log")
    colors = sns.color_palette("husl", table.shape[1])
    colors = ["lightgray" if n == _OTHERS else c for n, c in zip(table, colors, strict=True)]
    below.stackplot(table.index, table.to_numpy().T, labels=list(table), colors=colors)
    below.set(xlabel="step", ylabel="share of the top eigenvector", ylim=(0.0, 1.0))
    handles, labels = below.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right lower", fontsize="small", frameon=False
    )
    sns.despine(figure)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
