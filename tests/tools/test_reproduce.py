"""One command that trains the runs of a figure and draws it."""

import os

import pandas as pd
import pytest

from tools import figures, reproduce
from trainers import __main__, launchers

FIGURE = "fig02"


@pytest.fixture
def budget(tmp_path, monkeypatch):
    """Runs as many commands as there is time for, in this process; the list of all commands."""
    monkeypatch.chdir(tmp_path)
    given = []

    def of(number):
        def processes(execute, commands, settings):
            given.append((commands, settings))
            for command in commands[:number]:
                __main__.main(list(command[3:]))
                yield 0, ""

        monkeypatch.setitem(launchers.LAUNCHERS, "processes", processes)
        return given

    return of


@pytest.mark.parametrize("figure", reproduce.STAGES)
def test_runs_of_every_figure_are_distinct_and_its_drawing_exists(figure, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runs = [
        run
        for stage in reproduce.STAGES[figure]
        for sweep in stage
        for run in reproduce.runs_of(sweep, "laptop", [])
    ]
    assert len({run.job.directory for run in runs}) == len(runs) > 0
    assert len({run.command for run in runs}) == len(runs)
    assert not any(run.finished for run in runs)
    assert set(reproduce.DRAWN.get(figure, (figure,))) <= set(figures.FIGURES)


@pytest.mark.parametrize(
    ("figure", "setting", "number"),
    [
        ("fig01", "panel=b", 4),  # one of three panels
        ("fig01", "optimizer.beta_1=0.8", 11),  # each of the other panels once, and (b) as one run
        ("fig05", "fig05=nadam", 5),
        ("fig11", "fig11=adam", 16),
        ("quickstart", "seed=3", 1),
    ],
)
def test_settings_that_make_runs_equal_leave_one_of_them(
    figure, setting, number, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (stage,) = reproduce.STAGES[figure]
    runs = reproduce.runs_of_stage(stage, "laptop", [setting])
    assert len({run.job.directory for run in runs}) == len(runs)
    assert len(runs) == number


def test_every_figure_is_drawn_by_a_command():
    drawn = {name for figure in reproduce.STAGES for name in reproduce.DRAWN.get(figure, [figure])}
    assert drawn == set(figures.FIGURES)


def test_what_has_finished_is_drawn_and_the_same_command_goes_on(tmp_path, budget, capsys):
    given = budget(3)
    arguments = [FIGURE, "--minutes", "1", "--jobs", "2", "steps=60"]
    before = dict(os.environ)
    assert reproduce.main(arguments) == 0
    assert "finished: 3 of 5 runs; the same command goes on" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "figures/fig02.csv")) == 3
    budget(5)
    assert reproduce.main(arguments) == 0
    assert "finished: 5 of 5 runs\n" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "figures/fig02.csv")) == 5
    (first, settings), (second, _) = given
    assert (len(first), len(second)) == (5, 2)
    assert set(second) < set(first)
    assert settings["jobs"] == 2
    assert 0.5 < settings["minutes"] <= 1.0
    assert dict(os.environ) == before


def test_a_stage_waits_for_the_one_before(budget, capsys):
    given = budget(0)
    assert reproduce.main(["fig03", "--scale", "laptop"]) == 0
    [(commands, _)] = given
    assert {command[4] for command in commands} == {"fig03_source"}
    assert "finished: 0 of 6 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fig05", "--scale", "laptop", "stps=3"], "stps"),
        (["fig06", "--scale", "workstation"], "workstation"),
    ],
)
def test_what_can_not_be_used_is_one_line(arguments, message, budget, capsys):
    budget(0)
    assert reproduce.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "x"], ["--jobs", "0"]])
def test_budgets_are_positive(arguments, capsys):
    with pytest.raises(SystemExit):
        reproduce.main([FIGURE, *arguments])
    assert f"Received: {arguments[1]}" in capsys.readouterr().err
