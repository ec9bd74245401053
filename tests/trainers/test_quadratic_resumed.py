"""Runs of an optimizer on a quadratic that are interrupted and go on."""

import json
import signal

import pytest

from tests.trainers.test_checkpoint import Killed, kill, send
from trainers import quadratic, schema
from trainers.__main__ import main
from trainers.errors import UserError

# Slots of every kind.
OPTIMIZERS = {
    "amsgrad": {},
    "adamw": {"weight_decay": 0.1},
    "heavy_ball": {},
    "gradient_descent": {},
}


def config(name, **changes):
    return schema.Quadratic(
        **{
            "optimizer": schema.OPTIMIZERS[name](learning_rate=0.1, **OPTIMIZERS[name]),
            "curvature": 3.0,
            "steps": 30,
            "checkpoint": schema.Checkpoint(freq=7),
            "output_dir": "",
            **changes,
        }
    )


def before_row(monkeypatch, step, action):
    """Do something before a row is written."""
    original = quadratic._Trajectory.until

    def until(self, steps):
        for row in original(self, steps):
            if row["step"] == step:
                action()
            yield row

    monkeypatch.setattr(quadratic._Trajectory, "until", until)


def killed(settings, place, step):
    with pytest.MonkeyPatch.context() as patch:
        before_row(patch, step, kill)
        with pytest.raises(Killed):
            quadratic.train(settings, place, {})


def outcome(place):
    record = json.loads((place / "run.json").read_text())
    names = ("status", "stop_reason", "steps", "first_objective", "last_objective", "curvature")
    return (place / "trajectory.csv").read_bytes(), {name: record[name] for name in names}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_killed_run_goes_on_as_if_it_had_not_been(tmp_path, capsys, name):
    settings = config(name)
    quadratic.train(settings, tmp_path / "whole", {})
    run = tmp_path / "run"
    for step in (5, 16, 20, 29):
        killed(settings, run, step)
        with (run / "trajectory.csv").open("a") as file:
            file.write("29,0.1,0.")  # what a kill has left of a row
    newest = run / "checkpoints" / "28.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    record = quadratic.train(settings, run, {}).record
    assert record["resumed_at"] == [14, 14, 21]
    assert outcome(run) == outcome(tmp_path / "whole")
    assert "28.npz can't be read" in capsys.readouterr().err
    assert not (run / "checkpoints").exists()


def test_run_that_diverges_ends_as_if_it_had_not_been_killed(tmp_path):
    settings = config("heavy_ball", curvature=1e9, steps=1000)
    whole = quadratic.train(settings, tmp_path / "whole", {}).record
    assert whole["status"] == "diverged"
    killed(settings, tmp_path / "run", whole["steps"] - 1)
    quadratic.train(settings, tmp_path / "run", {})
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_signal_saves_the_run(tmp_path, capsys):
    arguments = ["-cn", "quadratic", "steps=9", f"output_dir={tmp_path / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        before_row(patch, 4, lambda: send(signal.SIGTERM))
        with pytest.raises(SystemExit) as end:
            main(arguments)
    assert end.value.code == 143
    assert "after update 4 of 9; its last checkpoint is" in capsys.readouterr().err
    main(arguments)
    assert "goes on after update 4" in capsys.readouterr().out
    steps = (tmp_path / "run" / "trajectory.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in steps] == [str(step) for step in range(10)]


def test_checkpoint_that_would_never_be_written_is_refused():
    with pytest.raises(UserError, match=r"without effect.*Received: checkpoint\.freq=30"):
        config("adamw", checkpoint=schema.Checkpoint(freq=30)).check()


DAMAGE = {
    "rows are missing": lambda run: (run / "trajectory.csv").write_text("step\n0\n"),
    "no rows": lambda run: (run / "trajectory.csv").unlink(),
    "another optimizer": lambda run: quadratic.State(14, 1.0, {}, []).write(
        run / "checkpoints" / "14.npz"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_can_not_go_on_is_said_and_starts_anew_if_asked(tmp_path, damage):
    settings, run = config("amsgrad"), tmp_path / "run"
    killed(settings, run, 15)
    damage(run)
    with pytest.raises(UserError, match="resume=never"):
        quadratic.train(settings, run, {})
    anew = config("amsgrad", resume="never")
    assert "resumed_at" not in quadratic.train(anew, run, {}).record
