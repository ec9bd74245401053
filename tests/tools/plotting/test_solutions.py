"""Figures 4, 6, 10, 11 and 19 from made-up runs of vision networks."""

import math

import numpy as np
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import drawn
from trainers import schema
from trainers.errors import UserError


def write_run(
    root,
    figure="fig10",
    panel="learning_rate",
    batch_size=None,
    model=None,
    optimizer=None,
    sharpness=10.0,
    step=100,
    ratio=1.0,
    error=0.6,
):
    """A run that came to its solution at `step`, with this sharpness and test error there."""
    optimizer = optimizer or schema.OPTIMIZERS["adam"]()
    config = schema.Config(
        model=model or schema.WideResNet(),
        data=schema.Data(num_examples=1000, batch_size=batch_size),
        optimizer=optimizer,
        monitor=schema.Monitor(loss_threshold=0.1),
        evaluation=schema.Evaluation(loss_threshold=0.05),
        output_dir="runs",
    )
    directory = root / f"{figure}-{panel}-{len(list(root.glob('*')))}"
    steps = np.array([50, 75, 150, 200] if step is None else [50, 75, step, 2 * step])
    threshold = 38 / optimizer.learning_rate
    metrics = {
        "step": steps,
        "loss": [1.0, 0.5, 0.1, 0.05],
        "preconditioned_sharpness": ratio * threshold,
        "sharpness": [1.0, 2.0, sharpness, 99.0],
        "stability_threshold": threshold,
        "edge_ratio": ratio * np.array([0.1, 1.0, 1.0, 2.0]),
    }
    evaluation = {
        "step": [10, 2 * (step or 100), 999],
        "training_loss": [0.5, math.inf if step is None else 0.05, 0.2],
        "test_loss": 1.0,
        "test_error": [0.9, error, 0.1],
    }
    record = {
        "first_loss": 2.3,
        "solution_step": step,
        "choices": {"config_name": figure, figure: panel},
    }
    return made_up.write(directory, config, record, metrics=metrics, evaluation=evaluation)


RATES = (1e-3, 2e-3, 4e-3)


@pytest.fixture
def sweeps(tmp_path):
    """Sharper for smaller learning rates in full batches, and the other way round in large ones."""
    for index, rate in enumerate(RATES):
        adam = schema.OPTIMIZERS["adam"](learning_rate=rate)
        write_run(tmp_path, optimizer=adam, sharpness=90 - 30 * index, error=0.7 - 0.1 * index)
        write_run(tmp_path, optimizer=adam, batch_size=250, sharpness=30 + 30 * index)
    for index, beta in enumerate((0.9, 0.99, 0.999)):
        adam = schema.OPTIMIZERS["adam"](beta_2=beta)
        write_run(tmp_path, panel="beta_2", optimizer=adam, sharpness=90 - 30 * index)
    return tmp_path


def test_figure_10_has_a_panel_for_each_sweep_and_batch(sweeps):
    figure, table = drawn(sweeps, "fig10")
    assert [axes.get_title() for axes in figure.axes] == [
        "full batch (1,000)",
        "full batch (1,000)",
        "batches of 250",
    ]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    curves = [axes.get_lines()[0] for axes in figure.axes]
    np.testing.assert_allclose(curves[0].get_xdata(), RATES)
    np.testing.assert_allclose(curves[0].get_ydata(), [90, 60, 30])
    np.testing.assert_allclose(curves[1].get_xdata(), [0.1, 0.01, 0.001])
    np.testing.assert_allclose(curves[1].get_ydata(), [90, 60, 30])
    # With 1 - β₂ the sharpness rises: the smaller β₂ the sharper.
    expected = {(1000, "learning_rate"): -1, (1000, "beta_2"): 1, (250, "learning_rate"): 1}
    for key, group in table.groupby(["batch", "panel"]):
        np.testing.assert_allclose(group["rank_correlation"], expected[key])


def test_figure_19_has_the_error_at_the_loss(sweeps):
    figure, table = drawn(sweeps, "fig19")
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), [0.7, 0.6, 0.5])
    assert figure.axes[0].get_yscale() == "linear"
    np.testing.assert_allclose(table["test_error"][:3], [0.7, 0.6, 0.5])


def test_run_without_a_solution_leaves_a_gap(sweeps):
    write_run(sweeps, optimizer=schema.OPTIMIZERS["adam"](learning_rate=8e-3), step=None)
    _, table = drawn(sweeps, "fig10")
    gap = table[table["learning_rate"] == 8e-3]
    assert gap["sharpness"].isna().all()
    _, table = drawn(sweeps, "fig19")
    assert table[table["learning_rate"] == 8e-3]["test_error"].isna().all()


def test_two_runs_of_one_setting_are_refused(sweeps):
    write_run(sweeps, optimizer=schema.OPTIMIZERS["adam"](learning_rate=RATES[0]))
    with pytest.raises(UserError, match="have the same learning_rate"):
        drawn(sweeps, "fig10")


def momentum(rate, **settings):
    return {
        "optimizer": schema.OPTIMIZERS["heavy_ball"](learning_rate=rate),
        "panel": "momentum",
        **settings,
    }


def test_figure_11_compares_at_equal_steps(sweeps):
    """Momentum's sharpness is 1,000 / steps; Adam's after 100 steps 90, 60 and 30."""
    for rate, step in ((1e-2, 200), (2e-2, 60)):
        write_run(sweeps, "fig11", **momentum(rate, step=step, sharpness=1000 / step))
    figure, table = drawn(sweeps, "fig11")
    assert [axes.get_title() for axes in figure.axes] == [
        "wide ResNet,\nfull batch (1,000)",
        "wide ResNet,\nbatches of 250",
    ]
    adam = table[(table["optimizer"] == "adam") & (table["batch"] == 1000)]
    np.testing.assert_allclose(adam["ratio_to_momentum"], [9, 6, 3])
    # Nothing to compare with in the other batches.
    others = table[table["batch"] == 250]
    assert others["ratio_to_momentum"].isna().all()


def test_figure_11_compares_nothing_beyond_the_fastest_rate(sweeps):
    """Momentum takes 200, 60 and then, at a rate too large, again 120 steps; Adam always 100."""
    for rate, step, sharpness in ((1e-2, 200, 5), (2e-2, 60, 1000 / 60), (4e-2, 120, 1e-3)):
        write_run(sweeps, "fig11", **momentum(rate, step=step, sharpness=sharpness))
    figure, table = drawn(sweeps, "fig11")
    adam = table[(table["optimizer"] == "adam") & (table["batch"] == 1000)]
    np.testing.assert_allclose(adam["ratio_to_momentum"], [9, 6, 3])
    assert list(figure.axes[0].lines[1].get_xdata()) == [200, 60, 120]


def test_figure_11_compares_nothing_outside_of_momentums_steps(sweeps):
    for rate, step in ((1e-2, 400), (2e-2, 200)):
        write_run(sweeps, "fig11", **momentum(rate, step=step))
    _, table = drawn(sweeps, "fig11")
    assert table["ratio_to_momentum"].isna().all()


def test_own_runs_of_figure_11_stand_before_those_of_figure_10(sweeps):
    write_run(sweeps, "fig11", "adam", sharpness=7.0)
    write_run(sweeps, "fig11_fully_connected", "adam", model=schema.FullyConnected(), sharpness=8.0)
    _, table = drawn(sweeps, "fig11")
    assert sorted(table["sharpness"]) == [7.0, 8.0]


def test_figure_6_has_a_panel_for_each_batch_size(tmp_path):
    for batch_size in (100, 500):
        for rate in RATES:
            write_run(
                tmp_path,
                "fig06",
                batch_size=batch_size,
                optimizer=schema.OPTIMIZERS["adam"](learning_rate=rate),
                ratio=batch_size / 1000,
            )
    figure, table = drawn(tmp_path, "fig06")
    assert [axes.get_title() for axes in figure.axes] == ["batch size 500", "batch size 100"]
    # The middle half of 200 steps: 75 and 100.
    np.testing.assert_allclose(table["mid_ratio"], [0.5] * 3 + [0.1] * 3)
    np.testing.assert_allclose(table["largest_ratio"], [1.0] * 3 + [0.2] * 3)


def test_figure_4_has_a_panel_for_each_network_there_is(tmp_path):
    for name, model in (
        ("fig04a", schema.CNN()),
        ("fig04c", schema.WideResNet()),
    ):
        for rate in RATES:
            write_run(
                tmp_path, name, model=model, optimizer=schema.OPTIMIZERS["adam"](learning_rate=rate)
            )
    figure, table = drawn(tmp_path, "fig04")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["(a) CNN", "(c) wide ResNet with BatchNorm"]
    assert len(table) == 6
    np.testing.assert_allclose(table["threshold"], 38 / np.array(2 * RATES))
