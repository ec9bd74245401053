"""The interactive curves of a report, drawn by Bokeh."""

import math
from collections.abc import Sequence

from bokeh.embed import components
from bokeh.models import (
    ColumnDataSource,
    CustomJSTickFormatter,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
    Span,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from keras_aeos.summaries.runs import Run

# Okabe and Ito's colours, which are told apart by the colour-blind, on white and on black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a500", "#8f6fd0")
_HEIGHT = 300
# Powers of ten and their multiples, short.
_TICK = """
const short = tick >= 0.01 && tick < 1e4
return short ? String(Number(tick.toPrecision(3))) : tick.toExponential().replace("e+", "e")
"""
# Column: title, whether its axis may be logarithmic.
_CHARTS = {
    "edge_ratio": ("Edge ratio λ₁(P⁻¹H) / λ*; dashed: the edge", False),
    "preconditioned_sharpness": ("Preconditioned sharpness λ₁(P⁻¹H); dashed: λ*", True),
    "loss": ("Training loss on the measured examples", True),
    "sharpness": ("Sharpness λ₁(H)", True),
    "gradient_norm_squared": ("‖∇f‖²", True),
    "preconditioner_norm_squared": ("‖P‖²", True),
}


def colour(index: int) -> str:
    """The colour of a run."""
    return _COLOURS[index % len(_COLOURS)]


def script() -> str:
    """The JavaScript of Bokeh, which the page carries."""
    return Resources(mode="inline", components=["bokeh"]).render_js()


def draw(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """The script and the elements of the charts.

    Args:
        runs: The runs. A run's curves have its name.

    Returns:
        The script, and one HTML element for each chart.
    """
    shared = Range1d(0, max([1, *(run.summary.num_steps for run in runs)]), bounds="auto")
    charts = [
        _chart(runs, column, title, may_be_log, shared)
        for column, (title, may_be_log) in _CHARTS.items()
        if any(column in run.metrics and run.metrics[column].notna().any() for run in runs)
    ]
    if not charts:
        return "", []
    text, elements = components(charts)
    return text, list(elements)


def _chart(
    runs: Sequence[Run], column: str, title: str, may_be_log: bool, shared: Range1d
) -> figure:
    log = may_be_log and _spans_decades(runs, column)
    plot = figure(
        title=title,
        height=_HEIGHT,
        sizing_mode="stretch_width",
        x_range=shared,
        y_axis_type="log" if log else "linear",
        tools="box_zoom,reset,save",
        active_drag=None,
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    plot.toolbar.logo = None
    plot.xaxis.axis_label = "step"
    if log:
        plot.yaxis.formatter = CustomJSTickFormatter(code=_TICK)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    curves = []
    for index, run in enumerate(runs):
        if column not in run.metrics:
            continue
        rows = run.metrics[run.metrics[column].notna() | run.metrics["edge_ratio"].isna()]
        source = ColumnDataSource(
            {
                "step": rows["step"],
                "value": rows[column].where(rows[column].abs() < math.inf),
                "ratio": rows["edge_ratio"],
                "threshold": rows["stability_threshold"],
            }
        )
        look = {"color": colour(index), "line_width": 1.8, "name": run.name}
        curve = plot.line("step", "value", source=source, **look)
        if len(rows) < 80:
            plot.scatter("step", "value", source=source, size=4, color=colour(index), name=run.name)
        curves.append(curve)
        if column == "preconditioned_sharpness":
            plot.line("step", "threshold", source=source, line_dash="dashed", **look)
    if column == "edge_ratio":
        plot.add_layout(Span(location=1.0, dimension="width", line_dash="dashed", name="edge"))
        ratios = [run.metrics["edge_ratio"].max() for run in runs]
        top = max([1.2, *(1.1 * ratio for ratio in ratios if ratio < math.inf)])
        plot.y_range = Range1d(0.0, min(top, 4.0))
    tips = [("run", "$name"), ("step", "@step{0,0}"), ("value", "@value")]
    if column in ("edge_ratio", "preconditioned_sharpness"):
        tips += [("ratio", "@ratio"), ("λ*", "@threshold")]
    plot.add_tools(HoverTool(renderers=curves, tooltips=tips, mode="mouse", line_policy="nearest"))
    return plot


def _spans_decades(runs: Sequence[Run], column: str) -> bool:
    values = [run.metrics[column] for run in runs if column in run.metrics]
    finite = [v[v.abs() < math.inf] for v in values]
    lowest = min((v.min() for v in finite if len(v)), default=math.nan)
    highest = max((v.max() for v in finite if len(v)), default=math.nan)
    return lowest > 0 and highest > 10 * lowest
