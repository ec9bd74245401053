import numpy as np
import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import drawn
from tools import figures
from tools.plotting import warmup
from trainers import schema
from trainers.errors import UserError


def write_run(root, norm="pre", batch_size=32, warmup_steps=100, status="completed"):
    """A finished run at twice the threshold early on that follows it from step 20."""
    config = schema.Config(
        model=schema.Transformer(norm=norm),
        data=schema.Translation(batch_size=batch_size),
        evaluation=schema.TranslationEvaluation(),
        optimizer=schema.OPTIMIZERS["adam"](learning_rate=1e-2),
        schedule=schema.Schedule(warmup_steps=warmup_steps),
        steps=200,
        output_dir="runs",
    )
    directory = root / f"{norm},{batch_size}"
    step = np.array([1, 2, 5, 10, 20, 50, 100, 200])
    threshold = 38 / (1e-2 * np.minimum(1, step / 100))
    ratio = np.where(step < 20, 0.05 * step, 1.0 if batch_size > 100 else 0.5)
    metrics = {
        "step": step,
        "loss": 5.0 - step / 100,
        "preconditioned_sharpness": ratio * threshold,
        "stability_threshold": threshold,
        "edge_ratio": ratio,
    }
    record = {
        "status": status,
        "steps": 200,
        "first_loss": 5.0,
        "choices": {"config_name": "fig07"},
    }
    return made_up.write(directory, config, record, metrics=metrics)


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs", "pre", 320)
    write_run(tmp_path / "runs", "pre", 32)
    write_run(tmp_path / "runs", "post", 320, status="diverged")
    return tmp_path / "runs"


def test_figure_and_table(runs, tmp_path, capsys):
    assert figures.main(["fig07", str(runs), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "fig07.png").stat().st_size > 10_000
    table = pd.read_csv(tmp_path / "figures" / "fig07.csv")
    assert list(table["norm"]) == ["Pre-LN", "Pre-LN", "Post-LN"]
    assert list(table["batch_size"]) == [32, 320, 320]
    assert list(table["status"]) == ["completed", "completed", "diverged"]
    np.testing.assert_allclose(table["ratio_at_5%"], 0.25)
    np.testing.assert_allclose(table["ratio_at_100%"], [0.5, 1, 1])
    assert table["ratio_at_25%"].isna().all()  # nothing measured within 20 % of step 25
    assert table["edge_step"].isna().tolist() == [True, False, False]
    # Along the threshold λ falls as 1/step.
    np.testing.assert_allclose(table["slope"].dropna(), -1)
    assert "| Post-LN |" in capsys.readouterr().out


def test_axes_are_logarithmic_and_the_threshold_is_dotted(runs):
    figure, _ = drawn(runs, "fig07")
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Pre-LN", "Post-LN"]
    for axes in (left, right):
        assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [line.get_label() for line in right.lines] == [
        "batch 320, diverged",
        "threshold, $38/\\eta(t)$",
    ]
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", ":"]


def test_runs_that_can_not_be_told_apart_or_have_no_warm_up(runs, tmp_path):
    again = warmup.read_runs(runs, "fig07") * 2
    with pytest.raises(UserError, match="same batch size"):
        warmup.draw_fig07(again)
    write_run(tmp_path / "constant", warmup_steps=0)
    with pytest.raises(UserError, match="no warm-up"):
        drawn(tmp_path / "constant", "fig07")
