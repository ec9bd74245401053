"""The summary of a finished run: its edge ratio, and a picture of its curves."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from keras_aeos.summaries import table
from keras_aeos.summaries.drawing import dashes, draw_loss, draw_preconditioned_sharpness
from keras_aeos.summaries.edge import COLUMNS, EdgeSummary, edge_summary
from keras_aeos.summaries.runs import read_runs
from trainers import run_directory


def summarise(directory: Path) -> EdgeSummary:
    """Summarise the run in a directory."""
    loss = OmegaConf.load(directory / run_directory.CONFIG).loss
    first_loss = run_directory.read(directory).get("first_loss")
    return edge_summary(read_metrics(directory), loss, first_loss)


def small_table(directory: Path) -> str:
    """The numbers of the run in a directory, a line a value; "" where nothing was measured."""
    if not (directory / run_directory.METRICS).exists():
        return ""
    [run] = read_runs([directory])
    return table.small_table(run)


def read_metrics(directory: Path) -> pd.DataFrame:
    """Read `metrics.csv`; no rows where nothing was measured."""
    path = directory / run_directory.METRICS
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def draw_run(directory: Path) -> Path:
    """Draw `curves.png` of the run in a directory: loss above, preconditioned sharpness below."""
    metrics = read_metrics(directory)
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(summarise(directory).sentence(), fontsize="small", wrap=True)
    draw_loss(above, [metrics], ["C0"])
    draw_preconditioned_sharpness(below, [metrics], ["C0"])
    below.set_xlabel("step")
    below.legend(handles=[*below.get_lines()[:1], dashes()], labels=["measured", "threshold"])
    for axes in (above, below):
        axes.grid(alpha=0.3)
    path = directory / run_directory.CURVES
    figure.savefig(path, dpi=150)
    return path
