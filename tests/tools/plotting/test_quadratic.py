import numpy as np
import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import drawn
from tools.plotting import quadratic
from tools.plotting.runs import find_runs, settings_label
from trainers import schema
from trainers.__main__ import main
from trainers.errors import UserError
from trainers.quadratic import train

# More on the command line of a figure, to make fewer or shorter runs.
FEWER = {
    "fig02": [],
    "fig12": [],
    "fig14": ["edge_ratio=0.3,0.5,1.1"],
    "fig17": [],
    "table01": [],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with the runs of every figure."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["trainers"])
        for name, fewer in FEWER.items():
            main(["-cn", name, f"output_dir={root / name}", *fewer])
    return root


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("name", ["fig02", "fig12", "fig14", "fig17"])
def test_figure_and_table_can_be_written(root, tmp_path, name):
    figure, table = drawn(root, name)
    figure.savefig(tmp_path / "figure.png")
    table.to_csv(tmp_path / "table.csv", index=False)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(quadratic.read_runs(root, name))


def test_figure_2_has_a_curve_for_each_learning_rate(root):
    figure, table = drawn(root, "fig02")
    [axes] = figure.axes
    assert axes.get_yscale() == "log"
    assert [len(line.get_ydata()) for line in axes.get_lines()] == [101] * 5
    assert len({line.get_color() for line in axes.get_lines()}) == 5
    assert texts(axes.get_legend()) == [
        *(rf"$\eta = {rate}$ (stable)" for rate in (1, 37, 37.9)),
        *(rf"$\eta = {rate}$ (unstable)" for rate in (38.1, 39)),
    ]
    finals = [line.get_ydata()[-1] for line in axes.get_lines()]
    np.testing.assert_array_equal(table["final_objective"], finals)


def test_figure_2_converges_where_the_theory_says(root):
    table = drawn(root, "fig02")[1].set_index("learning_rate")
    assert table["converged"].to_dict() == {1: True, 37: True, 37.9: True, 38.1: False, 39: False}
    assert table["stable_by_theory"].equals(table["converged"])
    np.testing.assert_allclose(table["threshold"], 38 / table.index, rtol=1e-12)


def test_figure_12_varies_one_setting_a_column(root):
    figure, _ = drawn(root, "fig12")
    left, right, below_left, below_right = figure.axes
    assert texts(left.get_legend()) == [rf"$\beta_2 = {beta}$" for beta in (0.975, 0.99, 0.999)]
    assert texts(right.get_legend()) == [rf"$\eta = {rate}$" for rate in (2.1, 2.2, 2.3)]
    assert {axes.get_yscale() for axes in (left, right)} == {"log"}
    # The run in both columns.
    assert left.get_lines()[2].get_color() == right.get_lines()[1].get_color()
    assert {len(axes.get_lines()) for axes in (below_left, below_right)} == {6}
    dashed = [line for line in below_right.get_lines() if line.is_dashed()]
    # √ν + ε is half the learning rate.
    expected = [(rate / 2 - 1e-7) ** 2 for rate in (2.1, 2.2, 2.3)]
    np.testing.assert_allclose([line.get_ydata()[0] for line in dashed], expected, rtol=1e-12)


def test_figure_12_heals(root):
    table = drawn(root, "fig12")[1]
    assert len(table) == 9
    assert table["healed"].all()
    np.testing.assert_allclose(table["first_edge_ratio"], table["learning_rate"] / 2, rtol=1e-6)
    # The first step below the threshold is the first one that comes nearer.
    assert list(table["stable_step"]) == list(table["peak_step"] + 1)
    assert (table["peak_distance"] > 1.4).all()


def test_figure_12_needs_both_columns(root):
    some = [r for r in quadratic.read_runs(root, "fig12") if r.setting("learning_rate") != 2.2]
    with pytest.raises(UserError, match=r"no run has learning_rate=2\.2"):
        quadratic.draw_fig12(some)


def test_figure_14_measures_the_growth_factor_of_the_theory(root):
    figure, table = drawn(root, "fig14")
    assert list(table["optimizer"]) == [
        name for name in ("gradient_descent", "heavy_ball", "nesterov") for _ in range(3)
    ]
    # Below the threshold the momentum oscillates, and 45 steps average it out to a few 1e-4.
    np.testing.assert_allclose(table["measured"], table["growth_factor"], atol=5e-4)
    # Above it nothing oscillates but the sign.
    above = table[table["edge_ratio"] > 1]
    np.testing.assert_allclose(above["measured"], above["growth_factor"], rtol=1e-10)
    assert len(above) == 3
    # Roots of z² - (1 + β - ηλ) z + β and z² - (1 + β)(1 - ηλ) z + β(1 - ηλ) at λ = 1.1 λ*.
    expected = [1.2, abs(np.roots([1, 2.28, 0.9])).max()]
    shrink = 1 - 1.1 * 3.8 / 2.8
    expected.append(abs(np.roots([1, -1.9 * shrink, 0.9 * shrink])).max())
    np.testing.assert_allclose(above["growth_factor"], expected, rtol=1e-12)
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["gradient descent", "standard heavy ball", "standard Nesterov"]
    for axes, threshold in zip(figure.axes, (10, 190, 3.8 / 2.8 / 0.02), strict=True):
        curve, dots, vertical, _ = axes.get_lines()
        assert curve.get_xdata()[-1] == pytest.approx(1.1 * threshold)
        assert dots.get_marker() == "o"
        assert len(dots.get_xdata()) == 3
        assert vertical.get_xdata()[0] == pytest.approx(threshold)


def test_table_1_has_each_threshold_between_two_runs(root):
    figure, table = drawn(root, "table01")
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert list(table["algorithm"]) == titles
    # η = 0.1, β₁ = 0.9: 2/η, (2 + 2β₁)/η, and for Nesterov by 1 + 2β₁; EMA by 1 - β₁.
    thresholds = {
        "gradient descent": 20.0,
        "standard heavy ball": 38.0,
        "EMA heavy ball": 380.0,
        "standard Nesterov": 38 / 2.8,
        "EMA Nesterov": 380 / 2.8,
    }
    expected = [thresholds[name] for name in table["algorithm"]]
    np.testing.assert_allclose(table["threshold"], expected, rtol=1e-12)
    assert (table["growth_below"] < 1).all()
    assert (table["growth_above"] > 1).all()
    assert table["claim_holds"].all()


def test_table_1_needs_both_sides_of_the_threshold(root):
    some = [run for run in quadratic.read_runs(root, "table01") if run.edge_ratio < 1]
    with pytest.raises(UserError, match="gradient descent: expected a run below"):
        quadratic.draw_table01(some)


def test_figure_17_shows_gradients_that_grow_although_stable(root):
    figure, table = drawn(root, "fig17")
    assert len(figure.axes) == 9
    assert [axes.get_title().split(",")[0] for axes in figure.axes[:3]] == [
        rf"$\eta = {rate}$" for rate in (10, 20, 37)
    ]
    momenta = [axes.get_lines()[0].get_ydata() for axes in figure.axes[3:6]]
    assert {(len(m), m[0]) for m in momenta} == {(31, 0.2)}
    assert (table["edge_ratio"] < 1).all()
    assert (table["first_squared_gradient"] == 1).all()
    assert (table["largest_squared_gradient"] > [6, 20, 400]).all()


STEPS = np.arange(101)
# iterates, growth factor, tolerance
GROWTH = {
    "shrinks": (0.8**STEPS, 0.8, 1e-12),
    "grows with changing sign": (1e-3 * (-1.2) ** STEPS, 1.2, 1e-12),
    "transient": (0.9**STEPS - 0.3**STEPS, 0.9, 1e-9),
    "oscillates": (0.95**STEPS * np.cos(1.1 * STEPS + 0.4), 0.95, 5e-4),
    "oscillates fast": (0.95**STEPS * np.cos(2.7 * STEPS), 0.95, 5e-4),
    "constant": (np.ones(101), 1.0, 1e-12),
    "vanishes at once": (np.where(STEPS < 1, 1.0, 0.0), 0.0, 0.0),
    "stands still at the minimum": (np.zeros(101), 0.0, 0.0),
    # Below 1e-308 numbers lose their digits, and end as zero.
    "underflows": (1e-200 * 0.01**STEPS, 0.01, 1e-12),
}


@pytest.mark.parametrize(("iterates", "expected", "tolerance"), GROWTH.values(), ids=GROWTH)
def test_growth_factor(iterates, expected, tolerance):
    assert quadratic.growth_factor(iterates) == pytest.approx(expected, abs=tolerance)


@pytest.fixture
def one(tmp_path):
    """A run of two steps."""
    settings = schema.Quadratic(
        optimizer=schema.OPTIMIZERS["heavy_ball"](ema=True), curvature=1.0, steps=2, output_dir=""
    )
    train(settings, tmp_path / "one", {"config_name": "fig02"})
    return tmp_path / "one"


def test_run_of_two_steps_is_drawn(one):
    _, table = drawn(one.parent, "fig02")
    [row] = table.to_dict("records")
    assert row["first_objective"] == 0.5
    assert row["converged"]


BROKEN = made_up.damages("trajectory", "iterate")


@pytest.mark.parametrize(("damage", "parts"), BROKEN.values(), ids=BROKEN)
def test_broken_run_is_named_in_one_line(one, damage, parts):
    damage(one)
    with pytest.raises(UserError) as error:
        quadratic.read_runs(one.parent, "fig02")
    assert "\n" not in str(error.value)
    assert [part for part in parts if part not in str(error.value)] == []


def test_no_such_directory(tmp_path):
    with pytest.raises(UserError, match="absent"):
        quadratic.read_runs(tmp_path / "absent", "fig02")


def test_two_runs_of_the_same_settings_are_refused(one):
    one.rename(one.parent / "other")
    settings = schema.Quadratic(
        optimizer=schema.OPTIMIZERS["heavy_ball"](ema=True), curvature=1.0, steps=3, output_dir=""
    )
    train(settings, one, {"config_name": "fig02"})
    with pytest.raises(UserError, match=r"one and .*other have the same learning_rate"):
        drawn(one.parent, "fig02")


def test_diverged_run_is_drawn(tmp_path):
    settings = schema.Quadratic(
        optimizer=schema.OPTIMIZERS["heavy_ball"](learning_rate=1e100, ema=True),
        curvature=1.0,
        output_dir="",
    )
    train(settings, tmp_path / "far", {"config_name": "fig02"})
    [row] = drawn(tmp_path, "fig02")[1].to_dict("records")
    assert not row["converged"]
    assert not row["stable_by_theory"]


def test_settings_by_name(root):
    run = find_runs(root, "fig02")[0]
    assert run.setting("name") == "heavy_ball"
    assert np.isnan(run.setting("beta_2"))
    assert settings_label(run, ["beta_1"]) == r"$\beta_1 = 0.9$"
