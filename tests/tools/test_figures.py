"""The command that draws figures, and the documented figures themselves."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tools import figures

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "reproduction").glob("*.md"))
COMMAND = re.compile(
    r"(?:for figure in ([\d ]+); do\s+)?"
    r"python tools/figures\.py (fig\$figure|\w+) (docs/runs[\w/.]*) --out (docs/figures[\w/]*)"
)
DOCUMENTED = [
    (figure, runs, out)
    for page in PAGES
    for loop, name, runs, out in COMMAND.findall(page.read_text())
    for figure in ([f"fig{number}" for number in loop.split()] if loop else [name])
]


@pytest.mark.parametrize(("figure", "runs", "out"), DOCUMENTED)
def test_documented_command_draws_the_committed_table(figure, runs, out):
    _, table = figures.draw(figure, ROOT / runs)
    committed = pd.read_csv(ROOT / out / f"{figure}.csv")
    drawn = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(drawn, committed)


def test_every_figure_is_documented():
    assert {figure for figure, _, _ in DOCUMENTED} == set(figures.FIGURES)
    tables = {(ROOT / out / f"{figure}.csv") for figure, _, out in DOCUMENTED}
    assert tables == set((ROOT / "docs" / "figures").rglob("*.csv"))


def test_program_writes_the_figure_and_its_table(tmp_path, capsys):
    for rate in (3e-5, 1e-4):
        made_up.write_training(tmp_path, learning_rate=rate)
    out = tmp_path / "new" / "out"
    assert figures.main(["fig01", str(tmp_path), "--out", str(out)]) == 0
    assert (out / "fig01.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(out / "fig01.csv")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(table) == 4
    assert printed[2].startswith("| a | 3e-05 |")
    assert "| yes |" in printed[2]


BROKEN = made_up.damages("metrics", "edge_ratio")


@pytest.mark.parametrize(("damage", "parts"), BROKEN.values(), ids=BROKEN)
def test_broken_run_is_named_in_one_line(tmp_path, capsys, damage, parts):
    damage(made_up.write_training(tmp_path, learning_rate=1e-4))
    assert figures.main(["fig01", str(tmp_path), "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert [part for part in parts if part not in message] == []
    assert not (tmp_path / "fig01.png").exists()


def test_two_runs_of_the_same_settings_are_refused(tmp_path, capsys):
    for name in ("one", "two"):
        made_up.write_training(tmp_path / name, learning_rate=1e-4)
    assert figures.main(["fig01", str(tmp_path), "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "one") in message
    assert str(tmp_path / "two") in message


def test_run_that_was_moved_aside_is_left_out(tmp_path):
    run = made_up.write_training(tmp_path, learning_rate=1e-4)
    shutil.copytree(run, run.with_name(f"{run.name}.replaced-1"))
    _, table = figures.draw("fig01", tmp_path)
    assert len(table) == 1


def test_place_that_cannot_be_written_is_named(tmp_path, capsys):
    made_up.write_training(tmp_path / "runs", learning_rate=1e-4)
    (tmp_path / "file").write_text("mine")
    out = str(tmp_path / "file")
    assert figures.main(["fig01", str(tmp_path / "runs"), "--out", out]) == 2
    assert out in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["empty", "absent"])
def test_place_without_runs(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    assert figures.main(["fig01", str(tmp_path / place)]) == 2
    assert str(tmp_path / place) in capsys.readouterr().err


def test_program_starts_from_any_directory(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "figures.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fig08" in result.stdout
