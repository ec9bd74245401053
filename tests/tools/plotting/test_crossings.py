import numpy as np
import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import change_table, drawn
from tools import figures
from tools.plotting import crossings
from trainers import schema
from trainers.errors import UserError

STEPS = np.array([*range(20, 100, 20), *range(100, 201)])
# λ₁(P⁻¹H)/λ* goes in straight lines from point to point.
CORNERS = [20, 100, 121, 131, 171, 190, 200], [0.5, 0.95, 1.05, 0.93, 1.07, 0.87, 0.96]
CROSSINGS = [110.5, 151]
# A spike of the gradient follows each crossing; it is large and small in turns.
PEAKS = {step: size for start in (118, 160) for step, size in ((start, 40.0), (start + 2, 10.0))}
QUANTITIES = [*schema.DEFAULT_QUANTITIES, "alignment"]


def write_run(
    root, rate=5e-5, every_step=(100, 200), figure="fig08", sharpness="rising", along=0.95
):
    """A finished run whose share of spikes along the top eigenvectors is `along`."""
    config = schema.Config(
        model=schema.FullyConnected(),
        optimizer=schema.OPTIMIZERS["adam"](learning_rate=rate, beta_2=0.99, bias_correction=False),
        monitor=schema.Monitor(
            every_step=every_step and list(every_step), quantities=QUANTITIES, num_eigenvalues=4
        ),
        output_dir="runs",
    )
    directory = root / f"{figure},{rate}"
    ratio, threshold = np.interp(STEPS, *CORNERS), 38 / rate
    gradient = np.array([PEAKS.get(step, 1.0) for step in STEPS])
    # P forgets a thousandth a step, and learns a fifth from each spike.
    norm = 0.999**STEPS * 1.2 ** np.searchsorted([118, 160], STEPS, side="right")
    share = np.where(gradient > 1, along, 0.25)
    table = {
        "step": STEPS,
        "loss": 2.3 - STEPS / 200,
        "preconditioned_sharpness": ratio * threshold,
        "stability_threshold": threshold,
        "edge_ratio": ratio,
        "sharpness": STEPS * 10.0 if sharpness == "rising" else ratio * 900,
        "gradient_norm_squared": gradient,
        "preconditioner_norm_squared": norm,
        "semi_preconditioned_gradient_norm_squared": 100 * gradient,
        "alignment": 100 * share * gradient,
        "alignment_remainder": 100 * (1 - share) * gradient,
    }
    for order in (2, 3, 4):
        table[f"preconditioned_sharpness_{order}"] = ratio * threshold / order
    record = {"first_loss": 2.3, "choices": {"config_name": figure}}
    return made_up.write(directory, config, record, metrics=table)


def row_of(root, name):
    [row] = drawn(root, name)[1].to_dict("records")
    return row


PATHS = {
    "up between two steps": ([0.9, 1.1], [10.5]),
    "nearer the lower value": ([0.99, 1.09], [10.1]),
    "up at a step": ([0.9, 1.0, 1.2], [11]),
    "down": ([1.1, 0.9], []),
    "up, down, up": ([0.5, 1.5, 0.5, 1.5], [10.5, 12.5]),
    "touches from above": ([1.1, 1.0, 1.1], []),
    "above from the beginning": ([1.2, 1.3], []),
    "below": ([0.7, 0.999], []),
    "one measurement": ([1.0], []),
}


@pytest.mark.parametrize(("values", "expected"), PATHS.values(), ids=PATHS)
def test_upward_crossings(values, expected):
    steps = np.arange(10, 10 + len(values))
    found = crossings.upward_crossings(steps, np.array(values))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_crossing_between_distant_steps():
    found = crossings.upward_crossings(np.array([20, 40]), np.array([0.8, 1.6]))
    np.testing.assert_allclose(found, [25], rtol=1e-12)


EVERY = np.arange(200)
# steps, values there, steps in spikes
SERIES = {
    "constant": (EVERY, np.ones(200), []),
    "large and small in turns": (
        EVERY,
        np.where(np.isin(EVERY, [80, 82, 84, 140]), 3.1, 1.0),
        [80, 82, 84, 140],
    ),
    "just below three times": (EVERY, np.where(EVERY == 80, 2.9, 1.0), []),
    # 19 of the 101 steps around the middle.
    "broad": (EVERY, np.where(abs(EVERY - 100) < 10, 9.0, 1.0), list(range(91, 110))),
    "high from some step on": (EVERY, np.where(EVERY >= 100, 9.0, 1.0), []),
    "measured rarely": (EVERY * 20, np.where(EVERY == 80, 9.0, 1.0), [1_600]),
    # Within 50 steps it changes by less than three times.
    "slow decay": (EVERY, 0.98**EVERY, []),
}


@pytest.mark.parametrize(("steps", "values", "expected"), SERIES.values(), ids=SERIES)
def test_spikes_stand_out_from_their_surroundings(steps, values, expected):
    assert list(steps[crossings.in_spikes(steps, values)]) == expected


@pytest.mark.parametrize(
    ("steps", "count"), [([], 0), ([5], 1), ([5, 15], 1), ([5, 16], 2), ([5, 7, 9, 40, 42], 2)]
)
def test_number_of_spikes(steps, count):
    assert crossings.num_spikes(np.array(steps)) == count


def test_figure_9_marks_the_crossings_in_a_column_for_each_learning_rate(tmp_path):
    for rate in (2e-4, 5e-5):
        write_run(tmp_path, rate)
    figure, table = drawn(tmp_path, "fig09")
    assert list(table["learning_rate"]) == [5e-5, 2e-4]
    panels = np.array(figure.axes).reshape(5, 2)
    assert [axes.get_title() for axes in panels[0]] == [
        r"$\eta = 5 \times 10^{-5}$",
        r"$\eta = 2 \times 10^{-4}$",
    ]
    for axes in panels.flat:
        *crossings, curve = axes.get_lines()[:3]
        assert [line.get_xdata()[0] for line in crossings] == pytest.approx(CROSSINGS)
        assert {line.get_color() for line in crossings} == {"tab:red"}
        assert list(curve.get_xdata()) == list(range(100, 201))
        assert axes.get_xlim() == (100, 200)
    for axes, rate in zip(panels[1], (5e-5, 2e-4), strict=True):
        threshold = axes.get_lines()[3]
        assert threshold.is_dashed()
        assert threshold.get_ydata()[0] == pytest.approx(38 / rate)
    assert [axes.get_lines()[2].get_ydata()[18] for axes in panels[2]] == [40, 40]
    labels = [axes.get_ylabel().replace("\n", " ") for axes in panels[:, 0]]
    for label, part in zip(labels, ("loss", "preconditioned", "f", "P", "sharp"), strict=True):
        assert part in label
    assert figure.legends[0].get_texts()[0].get_text() == "stability threshold"


# What λ₁(H) does, its part in the fall of λ₁(P⁻¹H), who brought it about
RESOLUTIONS = {"rising": ("P", "<0"), "falls as far": ("H and P", 1.0)}


@pytest.mark.parametrize(("sharpness", "expected"), RESOLUTIONS.items(), ids=RESOLUTIONS)
def test_table_of_figure_9_tells_what_follows_a_crossing(tmp_path, sharpness, expected):
    write_run(tmp_path, sharpness=sharpness)
    row = row_of(tmp_path, "fig09")
    assert (row["steps"], row["crossings"], row["returns"]) == ("100-200", 2, 2)
    # The lines pass 1 again at steps 125.2 and 177.7.
    assert row["steps_above"] == pytest.approx(np.mean([126 - 110.5, 178 - 151]))
    assert row["gradient_growth"] == 40
    # One step of forgetting lies within the rise.
    assert row["preconditioner_growth"] == pytest.approx(1.2 * 0.999)
    assert (row["gradient_grew"], row["preconditioner_grew"]) == ("2 of 2", "2 of 2")
    resolved_by, share = expected
    assert row["resolved_by"] == resolved_by
    assert row["share_of_H"] < 0 if share == "<0" else row["share_of_H"] == pytest.approx(share)
    assert row["claim_holds"] is True


def test_crossing_from_which_there_is_no_return_is_not_judged(tmp_path):
    change_table(write_run(tmp_path), lambda table: table[table["step"] <= 160])
    row = row_of(tmp_path, "fig09")
    assert (row["crossings"], row["returns"], row["gradient_grew"]) == (2, 1, "1 of 1")


def test_claim_of_figure_9_fails_where_the_gradient_stays(tmp_path):
    change_table(write_run(tmp_path), lambda table: table.assign(gradient_norm_squared=1.0))
    row = row_of(tmp_path, "fig09")
    assert row["gradient_grew"] == "0 of 2"
    assert row["claim_holds"] is False


def test_run_below_the_threshold_has_nothing_to_judge(tmp_path):
    change_table(
        write_run(tmp_path), lambda table: table.assign(edge_ratio=table["edge_ratio"] / 2)
    )
    for name in ("fig09", "fig18"):
        assert pd.isna(row_of(tmp_path, name)["claim_holds"])
        assert figures.main([name, str(tmp_path), "--out", str(tmp_path)]) == 0


def test_rows_without_numbers_are_left_out(tmp_path):
    directory = write_run(tmp_path)

    def damage(table):
        table.loc[table["step"] == 140, "edge_ratio":] = np.nan
        table.loc[table["step"] == 141, "semi_preconditioned_gradient_norm_squared"] = np.inf
        return table

    change_table(directory, damage)
    assert len(drawn(tmp_path, "fig09")[0].axes[0].get_lines()[2].get_xdata()) == 100
    assert row_of(tmp_path, "fig18")["measurements_of_spikes"] == 4
    for name in ("fig09", "fig18"):
        assert figures.main([name, str(tmp_path), "--out", str(tmp_path)]) == 0


def test_figure_18_splits_the_gradient(tmp_path):
    write_run(tmp_path, figure="fig18")
    figure, _ = drawn(tmp_path, "fig18")
    above, middle, below = figure.axes
    assert len(above.get_lines()) == 1
    *eigenvalues, threshold = middle.get_lines()
    # The largest lies on top.
    heights = [line.get_ydata()[-1] / threshold.get_ydata()[-1] for line in eigenvalues]
    np.testing.assert_allclose(heights, [0.24, 0.32, 0.48, 0.96], rtol=1e-12)
    assert threshold.is_dashed()
    whole, part, remainder = (line.get_ydata() for line in below.get_lines())
    np.testing.assert_allclose(part + remainder, whole, rtol=1e-12)
    assert whole.max() == 4_000
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [rf"$\lambda_{i}$" for i in range(1, 5)] == texts[:4]
    assert "its part along the top 4 eigenvectors" in texts


@pytest.mark.parametrize(("along", "holds"), [(0.95, True), (0.85, False)])
def test_table_of_figure_18_judges_the_spikes(tmp_path, along, holds):
    write_run(tmp_path, along=along)
    row = row_of(tmp_path, "fig18")
    # The edge ratio is 0.95 at step 100, and 0.84 at step 80.
    assert (row["edge_step"], row["num_eigenvalues"]) == (100, 4)
    assert (row["spikes"], row["measurements_of_spikes"]) == (2, 4)
    assert row["share_at_spikes"] == pytest.approx(along)
    assert row["share_elsewhere"] == pytest.approx(0.25)
    assert row["claim_holds"] is holds


def test_spikes_before_the_edge_are_not_counted(tmp_path):
    directory = write_run(tmp_path)
    change_table(
        directory,
        lambda table: table.assign(edge_ratio=table["edge_ratio"].where(table["step"] > 140, 0.5)),
    )
    row = row_of(tmp_path, "fig18")
    assert (row["edge_step"], row["spikes"], row["measurements_of_spikes"]) == (141, 1, 2)


def test_runs_of_its_own_configuration_come_first(tmp_path):
    write_run(tmp_path, 5e-5)
    for name in ("fig09", "fig18"):
        assert row_of(tmp_path, name)["learning_rate"] == 5e-5
        write_run(tmp_path, 2e-4, figure=name)
        assert row_of(tmp_path, name)["learning_rate"] == 2e-4


def test_runs_that_measured_less_are_left_out(tmp_path):
    write_run(tmp_path, 1e-4, every_step=None)
    change_table(write_run(tmp_path, 2e-4), lambda table: table.drop(columns="alignment"))
    write_run(tmp_path, 5e-5)
    assert list(drawn(tmp_path, "fig09")[1]["learning_rate"]) == [5e-5, 2e-4]
    assert list(drawn(tmp_path, "fig18")[1]["learning_rate"]) == [5e-5, 1e-4]


def without(*columns):
    return lambda table: table.drop(columns=list(columns))


NOT_ENOUGH = {
    "no window": ("fig09", None, without(), ["every_step=[begin,end]", "--config-name fig09"]),
    "window not reached": (
        "fig09",
        (600, 800),
        without(),
        ["between step 600 and step 800", "ended at step 200", "every_step"],
    ),
    "no gradient norm": (
        "fig09",
        (100, 200),
        without("gradient_norm_squared"),
        ["metrics.csv", "gradient_norm_squared", "monitor.quantities"],
    ),
    "no alignment": (
        "fig18",
        None,
        without("alignment", "alignment_remainder", "semi_preconditioned_gradient_norm_squared"),
        ["metrics.csv", "alignment", "monitor.quantities", "fig08.yaml"],
    ),
}


@pytest.mark.parametrize(
    ("figure", "every_step", "damage", "parts"), NOT_ENOUGH.values(), ids=NOT_ENOUGH
)
def test_missing_measurement_is_named_in_one_line(tmp_path, figure, every_step, damage, parts):
    change_table(write_run(tmp_path, every_step=every_step), damage)
    with pytest.raises(UserError) as error:
        drawn(tmp_path, figure)
    assert "\n" not in str(error.value)
    assert [part for part in parts if part not in str(error.value)] == []


@pytest.mark.parametrize("name", ["fig09", "fig18"])
def test_no_runs_of_either_configuration(tmp_path, name):
    write_run(tmp_path, figure="fig01")
    with pytest.raises(UserError, match=f"of {name} or fig08; .*--config-name {name}'"):
        drawn(tmp_path, name)


def test_two_runs_of_one_learning_rate_are_refused(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name)
    for name in ("fig09", "fig18"):
        with pytest.raises(UserError, match="same learning_rate"):
            drawn(tmp_path, name)


@pytest.mark.parametrize("name", ["fig09", "fig18"])
def test_program_writes_the_figure_and_its_table(tmp_path, capsys, name):
    write_run(tmp_path)
    assert figures.main([name, str(tmp_path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(tmp_path / f"{name}.csv")) == 1
    assert "| yes |" in capsys.readouterr().out
