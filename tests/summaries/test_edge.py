import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from keras_aeos.summaries.drawing import draw_curves
from keras_aeos.summaries.edge import edge_summary


def metrics(ratios, losses, threshold=380.0):
    steps = 20 * np.arange(1, len(ratios) + 1)
    return pd.DataFrame(
        {
            "step": steps,
            "loss": losses,
            "edge_ratio": ratios,
            "preconditioned_sharpness": np.multiply(ratios, threshold),
            "stability_threshold": threshold,
        }
    )


nan = math.nan
# Ratios, losses and the name of the loss; R, edge step, fit step, window and R to the end.
CASES = {
    "plateau to the end": (
        ([0.5, 0.9, 1.0, 1.1], [2.3, 2.0, 1.5, 1.0], "cross_entropy"),
        (1.0, 40, None, (40, 80), 1.0),
    ),
    "until the data are fitted": (
        ([0.5, 0.95, 1.05, 0.3], [2.3, 2.0, 1.5, 0.19], "cross_entropy"),
        (1.0, 40, 80, (40, 60), 0.95),
    ),
    "squared error: a tenth of the first loss": (
        ([0.5, 0.95, 1.05, 0.3], [0.2, 0.1, 0.021, 0.019], "squared_error"),
        (1.0, 40, 80, (40, 60), 0.95),
    ),
    "edge after the data were fitted": (
        ([0.5, 0.5, 1.0, 1.2], [0.2, 0.01, 0.009, 0.008], "squared_error"),
        (nan, 60, 40, None, 1.1),
    ),
    "below in between counts": (
        ([0.9, 0.5, 1.0, 0.6], [2, 2, 2, 2], "cross_entropy"),
        (0.75, 20, None, (20, 80), 0.75),
    ),
    "NaN rows are left out": (
        ([0.9, nan, 1.1, nan], [2, 2, 2, nan], "cross_entropy"),
        (1.0, 20, None, (20, 60), 1.0),
    ),
    "never": (([0.5, 0.89], [2, 2], "cross_entropy"), (nan, None, None, None, nan)),
    "only NaN": (([nan, nan], [nan, nan], "cross_entropy"), (nan, None, None, None, nan)),
}


@pytest.mark.parametrize(("case", "expected"), CASES.values(), ids=CASES)
def test_median_over_the_window(case, expected):
    ratios, losses, loss = case
    summary = edge_summary(metrics(ratios, losses), loss)
    ratio, edge_step, fit_step, window, ratio_to_end = expected
    assert summary.ratio == pytest.approx(ratio, nan_ok=True)
    assert summary.ratio_to_end == pytest.approx(ratio_to_end, nan_ok=True)
    assert (summary.edge_step, summary.fit_step, summary.window) == (edge_step, fit_step, window)
    assert summary.threshold == 380.0
    assert summary.num_steps == 20 * len(ratios)


SENTENCES = {
    "edge": ([0.5, 0.95], [2.3, 2.0], ["R = 0.95", "40 to 40"]),
    "never": ([0.5, 0.6], [2.3, 2.0], ["not reached in 40 steps"]),
    "fitted before": ([0.5, 0.98], [0.1, 0.1], ["fitted at step 20", "step 40", "0.98"]),
}


@pytest.mark.parametrize(("ratios", "losses", "parts"), SENTENCES.values(), ids=SENTENCES)
def test_sentence(ratios, losses, parts):
    sentence = edge_summary(metrics(ratios, losses), "cross_entropy").sentence()
    assert [part for part in parts if part not in sentence] == []


def test_steps_measured_one_by_one_do_not_outweigh_the_others():
    # 1 for 60 steps of the 63, measured in three rows; 1.2 for three, in three rows.
    table = metrics([1.0, 1.0, 1.2, 1.2, 1.2, 1.0], [2.0] * 6)
    table["step"] = [20, 40, 41, 42, 43, 63]
    assert edge_summary(table, "cross_entropy").ratio == 1.0


def test_first_loss_is_that_before_training():
    table = metrics([0.95, 0.95, 3.0], [0.1, 0.05, 0.02])
    assert edge_summary(table, "squared_error").window == (20, 60)
    assert edge_summary(table, "squared_error", first_loss=0.21).window == (20, 40)


@pytest.mark.parametrize(("ratio", "holds"), [(0.91, True), (1.14, True), (1.2, False)])
def test_claim(ratio, holds):
    assert edge_summary(metrics([ratio], [2.0]), "cross_entropy").holds is holds


def test_no_rows():
    empty = metrics([], [])
    assert "nothing was measured" in edge_summary(empty, "cross_entropy").sentence()
    assert not edge_summary(empty, "cross_entropy").holds


@pytest.mark.parametrize(
    ("ratios", "sharpness", "drawn"),
    [
        # Rows without it lie between those with it: one line.
        ([1.0] * 5, [nan, 3.0, nan, nan, 4.0], ([40, 100], [3.0, 4.0])),
        # A row that failed is a gap, and so is an infinite value.
        ([1.0, nan, 1.0], [3.0, nan, 4.0], ([20, 40, 60], [3.0, nan, 4.0])),
        ([1.0, 1.0, 1.0], [3.0, math.inf, 4.0], ([20, 40, 60], [3.0, nan, 4.0])),
    ],
)
def test_curve_has_gaps_where_a_measurement_failed_alone(ratios, sharpness, drawn):
    run = metrics(ratios, [1.0] * len(ratios)).assign(sharpness=sharpness)
    axes = Figure().subplots()
    draw_curves(axes, [run], ["C0"], "sharpness")
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), drawn[0])
    np.testing.assert_array_equal(line.get_ydata(), drawn[1])
