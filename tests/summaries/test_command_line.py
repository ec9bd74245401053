"""The command `keras-aeos`: numbers, pages of curves, and the HTML report."""

import importlib.metadata
import math
import re

import numpy as np
import pytest

from keras_aeos.summaries import command_line, page, picture
from keras_aeos.summaries.runs import read_runs
from tests.summaries import made_up


@pytest.fixture
def sweep(tmp_path):
    for name, rate in (("x", 0.0001), ("y", 0.00032)):
        made_up.write(tmp_path / "sweep" / name, rate)
    return tmp_path / "sweep"


def test_summary_of_one_run_is_a_small_table(sweep, capsys):
    assert command_line.main(["summary", str(sweep / "x")]) == 0
    printed = dict(
        re.split(r"\s{2,}", line.strip(), maxsplit=1)
        for line in capsys.readouterr().out.splitlines()[1:]
    )
    assert printed == {
        "stability threshold": "380",
        "edge ratio R": "1.000",
        "claimed": "0.9 to 1.15: holds",
        "first step at the edge": "step 60",
        "time at the edge": "67% of the steps",
        "Hessian-vector products": "48",
        "overhead": "5.0%",
    }


def test_summary_of_a_sweep_has_a_line_a_run(sweep, capsys):
    assert command_line.main(["summary", str(sweep)]) == 0
    head, rule, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["run", "optimizer"]
    assert set(rule) == {"-", " "}
    assert [line.split()[:2] for line in lines] == [["eta=1e-4", "adam"], ["eta=3.2e-4", "adam"]]


def test_pages_are_the_same_bytes_for_the_same_run(sweep, tmp_path):
    for out in ("a", "b"):
        assert command_line.main(["summary", str(sweep), "--out", str(tmp_path / out)]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [f"eta={rate}.{kind}" for rate in ("1e-4", "3.2e-4") for kind in ("pdf", "png")]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_page_has_loss_sharpnesses_ratio_and_norms():
    figure = picture.draw(made_up.metrics(), "run")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert len(labels) == 6
    for part in ("loss", "edge ratio", "preconditioned", r"sharpness $\lambda_1(H)$", "nabla", "P"):
        assert any(part in label for label in labels), part
    drawn = figure.axes[2].get_lines()
    metrics = made_up.metrics()
    np.testing.assert_array_equal(drawn[0].get_ydata(), metrics["preconditioned_sharpness"])
    np.testing.assert_array_equal(drawn[1].get_ydata(), metrics["stability_threshold"])


# Columns of runs that leave little to draw. A warning would be an error.
SPARSE: list[dict] = [
    {"ratios": []},
    {"ratios": [0.1]},
    {"ratios": [math.nan] * 3},
    {"ratios": [-0.1, -0.2]},
    {"ratios": [0.1, 0.1], "loss": 0.0},
    {"ratios": [0.1, 0.1], "loss": math.inf},
]


@pytest.mark.parametrize("columns", SPARSE)
def test_page_of_a_run_without_numbers(columns):
    assert picture.png(picture.draw(made_up.metrics(**columns), "run")).startswith(b"\x89PNG")


def test_report_needs_no_network_and_has_every_part(sweep, tmp_path):
    pytest.importorskip("bokeh")
    made_up.write(sweep / "z", 0.001, ratios=[0.2, 0.3], loss=[1.0, 3.0])
    out = tmp_path / "new" / "report.html"
    assert command_line.main(["report", str(sweep), "-o", str(out)]) == 0
    text = out.read_text()
    assert not re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=|<link\b", text)
    headings = ["What was run", "Curves", "Verdicts", "Events", "Environment and commands"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == headings
    for part in ("eta=1e-4", "eta=3.2e-4", "eta=1e-3", 'class="pass"', 'class="miss"', "spike"):
        assert part in text
    assert text.count('class="chart"') == 6


def test_verdicts_are_those_of_the_summary(tmp_path):
    pytest.importorskip("bokeh")
    [run] = read_runs([made_up.write(tmp_path / "run", 0.1, converged=[True] * 5 + [False])])
    assert [(claim.measured, claim.holds) for claim in page.claims(run)] == [
        ("0.9 at step 60", True),
        ("1.000 in steps 60 to 120, expected 0.9 to 1.15", True),
        ("5 of 6 rows", False),
        ("6 of 6 rows", True),
    ]


def test_names_and_texts_of_a_run_are_no_html(tmp_path):
    pytest.importorskip("bokeh")
    made_up.write(tmp_path / "<script>alert(1)")
    assert "<script>alert" not in page.html(read_runs([tmp_path]))


@pytest.mark.parametrize("command", ["summary", "report"])
def test_place_without_a_run_is_named_in_one_line(tmp_path, capsys, command):
    assert command_line.main([command, str(tmp_path / "absent")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert str(tmp_path / "absent") in message
    assert message.count("\n") == 1


def test_command_is_installed():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="keras-aeos")
    if not scripts:
        pytest.skip("installed before the command was added")
    [script] = scripts
    assert script.load() is command_line.main
