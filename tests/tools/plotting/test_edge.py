import shutil

import numpy as np
import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import drawn
from tools import figures
from tools.plotting import edge
from trainers import schema
from trainers.errors import UserError

# Those whose runs differ in the learning rate alone, and that draw any run of theirs.
TRAININGS = ("fig01", "fig03", "fig05", "fig08", "fig13", "fig15")
PANELS = {
    "a": [{"learning_rate": rate} for rate in (3e-5, 1e-4, 3.2e-4, 1e-3)],
    "b": [{"beta_1": beta} for beta in (0.95, 0.903, 0.814, 0.64)],
    "c": [
        {"learning_rate": rate, "beta_2": beta}
        for rate in (5e-5, 4e-4)
        for beta in (0.9, 0.99, 0.999)
    ],
}


@pytest.fixture
def runs(tmp_path):
    for panel, optimizers in PANELS.items():
        for optimizer in optimizers:
            made_up.write_training(tmp_path / "runs", panel, **optimizer)
    return tmp_path / "runs"


def test_figure_1_has_a_column_for_each_panel(runs):
    figure, table = drawn(runs, "fig01")
    # Subplots come row by row.
    above, below = figure.axes[:3], figure.axes[3:]
    assert [len(axes.get_lines()) for axes in above] == [4, 4, 6]
    assert {axes.get_yscale() for axes in below} == {"log"}
    for axes, count in zip(below, (4, 4, 6), strict=True):
        curves, thresholds = axes.get_lines()[:count], axes.get_lines()[count:]
        assert [c.get_color() for c in curves] == [t.get_color() for t in thresholds]
        assert {t.is_dashed() for t in thresholds} == {True}
        assert len({c.get_color() for c in curves}) == count
    assert list(table["panel"]) == list("aaaabbbbcccccc")


def test_curves_are_those_of_the_runs(runs):
    figure, _ = drawn(runs, "fig01")
    curves, thresholds = figure.axes[3].get_lines()[:4], figure.axes[3].get_lines()[4:]
    # 38 / learning_rate, in the order of the learning rates; at the edge from step 100 on.
    expected = [38 / rate for rate in (3e-5, 1e-4, 3.2e-4, 1e-3)]
    np.testing.assert_allclose([line.get_ydata()[0] for line in thresholds], expected)
    np.testing.assert_allclose([line.get_ydata()[-1] for line in curves], expected)


def test_figure_1_draws_the_panels_that_are_there(tmp_path):
    for optimizer in PANELS["b"]:
        made_up.write_training(tmp_path, "b", **optimizer)
    figure, _ = drawn(tmp_path, "fig01")
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["(b) momentum, 50,000 images", ""]
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert sorted(labels) == sorted(
        [*(f"$\\beta_1 = {beta}$" for beta in (0.64, 0.814, 0.903, 0.95)), "stability threshold"]
    )


def test_figure_8_draws_the_raw_sharpness(tmp_path):
    for optimizer in PANELS["a"]:
        made_up.write_training(tmp_path, figure="fig08", **optimizer)
    figure, table = drawn(tmp_path, "fig08")
    assert len(figure.axes) == 3
    np.testing.assert_allclose(figure.axes[2].get_lines()[0].get_ydata()[-1], 2_000)
    assert set(table["sharpness_begin"]) == {1_000}
    assert set(table["sharpness_end"]) == {2_000}


@pytest.mark.parametrize(
    ("figure", "label", "thresholds"),
    [
        (
            "fig05",
            "preconditioned",
            {"adam": "38", "padam": "38", "nadam": "38", "rmsprop": "2", "adagrad": "2"},
        ),
        ("fig13", "sharpness", {"gradient_descent": "2", "heavy_ball": "38", "nesterov": "38"}),
    ],
)
def test_figures_of_many_optimizers_have_a_panel_for_each(tmp_path, figure, label, thresholds):
    names = list(thresholds)
    for name in names:
        for rate in (1e-3, 1e-4):
            optimizer = schema.OPTIMIZERS[name]()
            made_up.write_training(
                tmp_path, name, figure=figure, optimizer=optimizer, learning_rate=rate
            )
    drawing, table = drawn(tmp_path, figure)
    assert len(drawing.axes) == len(names)
    titles = [axes.get_title() for axes in drawing.axes]
    # The thresholds are those of the rows, which are Adam's wherever there is a β₁.
    assert titles == [
        rf"{edge.TITLES[name]} ($\lambda^* = {thresholds[name]} / \eta$)" for name in names
    ]
    assert label in drawing.axes[0].get_ylabel()
    for axes in drawing.axes:
        curves, thresholds = axes.get_lines()[:2], axes.get_lines()[2:]
        # At the edge at the end.
        for curve, threshold in zip(curves, thresholds, strict=True):
            assert curve.get_ydata()[-1] == pytest.approx(threshold.get_ydata()[-1])
    # Smaller learning rate first, optimizers as in the panels.
    assert list(table["learning_rate"]) == [1e-4, 1e-3] * len(names)
    assert list(table["optimizer"][::2]) == names


def test_figure_3_draws_frozen_adam(tmp_path):
    frozen = schema.OPTIMIZERS["frozen_adam"](second_moments="moments.npz")
    for rate in (1e-5, 1e-4):
        made_up.write_training(tmp_path, figure="fig03", optimizer=frozen, learning_rate=rate)
    figure, table = drawn(tmp_path, "fig03")
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 4, 2]
    assert list(table["R"]) == pytest.approx([1.0, 1.0])


def test_quickstart_has_a_row_for_each_seed(tmp_path):
    for seed in (3, 0):
        directory = made_up.write_training(tmp_path, f"{seed}", figure="quickstart")
        config = (directory / "config.yaml").read_text()
        (directory / "config.yaml").write_text(config.replace("seed: 0", f"seed: {seed}"))
    figure, table = drawn(tmp_path, "quickstart")
    assert list(table["seed"]) == [0, 3]
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["seed 0", "stability threshold", "seed 3"]


@pytest.mark.parametrize(("count", "place"), [(1, 1), (2, 1), (3, 3), (4, 2), (5, 5), (6, 3)])
def test_threshold_stands_last_in_a_column_of_the_legend(tmp_path, count, place):
    for index in range(count):
        made_up.write_training(tmp_path, figure="fig15", learning_rate=1e-4 * (index + 1))
    figure, _ = drawn(tmp_path, "fig15")
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels.index("stability threshold") == place


def test_loss_is_drawn_from_its_start_and_a_divergence_is_cut_off(tmp_path):
    rates = (1e-4, 2e-4, 4e-4)
    for rate in rates:
        directory = made_up.write_training(tmp_path, figure="fig08", learning_rate=rate)
        dense = pd.DataFrame({"step": np.arange(401, 1401), "loss": 0.5, "edge_ratio": 1.0})
        made_up.change_table(
            directory, lambda table, dense=dense: pd.concat([table, dense]).ffill()
        )
    made_up.change_table(directory, lambda table: table.head(1).assign(loss=1e30))
    figure, _ = drawn(tmp_path, "fig08")
    low, high = figure.axes[0].get_ylim()
    # The first row's loss is 2.2.
    assert low <= 0.5
    assert 2.2 < high < 4


def test_panels_of_figure_6_share_their_axis(tmp_path):
    for batch in (10, 100):
        directory = made_up.write_training(tmp_path / f"{batch}", ratio=batch / 100, figure="fig06")
        config = (directory / "config.yaml").read_text()
        (directory / "config.yaml").write_text(
            config.replace("  batch_size: null", f"  batch_size: {batch}")
        )
    figure, _ = drawn(tmp_path, "fig06")
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_figure_16_compares_frozen_with_free(tmp_path):
    for step in (None, 120):
        made_up.write_training(tmp_path, figure="fig16", learning_rate=1e-5, freeze_step=step)
    figure, table = drawn(tmp_path, "fig16")
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["Adam", "stability threshold", "$P$ frozen at step 120"]
    assert [None if pd.isna(step) else step for step in table["freeze_step"]] == [None, 120]
    shutil.copytree(next(tmp_path.glob("*None")), tmp_path / "again")
    with pytest.raises(UserError, match="same freeze_step"):
        drawn(tmp_path, "fig16")


@pytest.mark.parametrize(
    ("name", "ratio", "holds"),
    [
        ("adam", 0.95, True),
        ("adam", 1.3, False),
        ("nadam", 1.3, True),
        ("nadam", 0.95, False),
        ("adagrad", 1.6, False),
    ],
)
def test_claim_depends_on_the_momentum(tmp_path, name, ratio, holds):
    optimizer = schema.OPTIMIZERS[name]()
    made_up.write_training(
        tmp_path, ratio=ratio, figure="fig05", optimizer=optimizer, learning_rate=1e-4
    )
    [row] = drawn(tmp_path, "fig05")[1].to_dict("records")
    assert row["claim_holds"] is holds


@pytest.mark.parametrize(("loss", "holds"), [("squared_error", True), ("cross_entropy", None)])
def test_plateau_after_the_fit_counts_for_the_squared_error_alone(tmp_path, loss, holds):
    directory = made_up.write_training(tmp_path, figure="fig05", loss=loss, learning_rate=1e-4)
    made_up.change_table(directory, lambda table: table.assign(loss=0.1))
    [row] = drawn(tmp_path, "fig05")[1].to_dict("records")
    assert pd.isna(row["R"])
    assert row["R_to_end"] == pytest.approx(1.0)
    assert row["claim_holds"] is holds
    assert "fitted before the edge" in row["remark"]


CLAIMS = {
    "at the edge": (1.0, (1.0, 100, True)),
    "above it": (1.3, (1.3, 80, False)),
    "not reached": (0.5, (None, None, None)),
}


@pytest.mark.parametrize(("ratio", "expected"), CLAIMS.values(), ids=CLAIMS)
def test_table_judges_the_claim(tmp_path, ratio, expected):
    made_up.write_training(tmp_path, ratio=ratio, learning_rate=1e-4)
    [row] = drawn(tmp_path, "fig01")[1].to_dict("records")
    assert row["learning_rate"] == 1e-4
    assert row["threshold"] == pytest.approx(380_000)
    found = [row[name] for name in ("R", "edge_step", "claim_holds")]
    assert [None if pd.isna(value) else value for value in found] == pytest.approx(list(expected))


def test_rows_without_numbers_are_left_out(tmp_path, capsys):
    for figure in TRAININGS:
        directory = made_up.write_training(tmp_path / figure, figure=figure, learning_rate=1e-4)
        table = pd.read_csv(directory / "metrics.csv")
        table.loc[[2, 9], ["loss", "preconditioned_sharpness", "sharpness", "edge_ratio"]] = np.nan
        table.loc[8, "loss"] = np.inf
        table.to_csv(directory / "metrics.csv", index=False)
        assert figures.main([figure, str(tmp_path), "--out", str(tmp_path)]) == 0
        assert "| 100-180 |" in capsys.readouterr().out


def test_run_that_is_all_nan_is_drawn(tmp_path):
    directory = made_up.write_training(tmp_path, learning_rate=1e-4)
    nothing = dict.fromkeys(("loss", "preconditioned_sharpness", "sharpness", "edge_ratio"), np.nan)
    pd.read_csv(directory / "metrics.csv").assign(**nothing).to_csv(directory / "metrics.csv")
    assert figures.main(["fig01", str(tmp_path), "--out", str(tmp_path)]) == 0


def test_run_without_rows_is_drawn_beside_another(tmp_path, capsys):
    made_up.write_training(tmp_path, learning_rate=1e-3)
    directory = made_up.write_training(tmp_path, learning_rate=1e-4)
    pd.read_csv(directory / "metrics.csv").head(0).to_csv(directory / "metrics.csv", index=False)
    assert figures.main(["fig01", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "edge not reached" in capsys.readouterr().out


def test_runs_of_other_figures_are_left_out(tmp_path):
    made_up.write_training(tmp_path, learning_rate=1e-3)
    made_up.write_training(tmp_path, "other", figure="fig08", learning_rate=1e-4)
    assert list(drawn(tmp_path, "fig01")[1]["learning_rate"]) == [1e-3]
    assert list(drawn(tmp_path, "fig08")[1]["learning_rate"]) == [1e-4]
