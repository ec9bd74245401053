import dataclasses

import numpy as np
import pandas as pd
import pytest

from tools import gallery
from tools.plotting.gallery import draw


def rows(**columns):
    step = np.arange(5, 30, 5)
    return pd.DataFrame(
        {
            "step": step,
            "loss": 1.0 / step,
            "preconditioned_sharpness": 10.0 * step,
            "stability_threshold": 200.0,
            **columns,
        }
    )


@pytest.mark.parametrize(
    "measured",
    [
        rows(),
        rows(loss=10.0 ** -np.arange(5)),
        rows(loss=[1.0, 2.0, 3.0, np.nan, np.nan]),
        rows(stability_threshold=[500, 400, 300, 200, 100]),
    ],
    ids=["ordinary", "decades", "diverging", "warm-up"],
)
def test_curves_are_the_rows(measured, tmp_path):
    figure = draw(measured, "a title")
    drawn = [line.get_ydata() for axes in figure.axes for line in axes.get_lines()]
    for values, column in zip(
        drawn, ["loss", "preconditioned_sharpness", "stability_threshold"], strict=True
    ):
        np.testing.assert_array_equal(values, measured[column])
    figure.savefig(tmp_path / "figure.png")
    ticks = [axes.yaxis.get_major_locator()() for axes in figure.axes]
    limits = [axes.get_ylim() for axes in figure.axes]
    for values, (low, high) in zip(ticks, limits, strict=True):
        assert sum(low <= value <= high for value in values) >= 2


def test_warm_up_lowers_the_threshold():
    training = dataclasses.replace(gallery.TRAININGS["warm_up"], steps=10)
    measured = gallery.train(training)
    np.testing.assert_allclose(
        measured["stability_threshold"], 38 / measured["learning_rate"], rtol=1e-5
    )
    assert measured["learning_rate"].is_monotonic_increasing
    assert measured["exact"].all()


def test_an_unknown_curve_is_named(capsys):
    with pytest.raises(SystemExit):
        gallery.main(["stabel"])
    assert "Received: ['stabel']" in capsys.readouterr().err
