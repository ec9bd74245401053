"""What a command runs, where, and what a sweep does not run again."""

import json

import pytest

from trainers import training
from trainers.__main__ import main
from trainers.errors import UserError


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Starts the same sweep of two tiny runs; gives back what it printed."""
    monkeypatch.chdir(tmp_path)
    arguments = ["-cn", "quickstart", "-m", "optimizer.learning_rate=1e-3,2e-3"]
    arguments += ["data.num_examples=60", "model.width=4", "steps=2", "monitor.update_freq=1"]

    def start(*more):
        main([*arguments, *more])
        return capsys.readouterr().out

    return start


def test_sweep_goes_on_where_it_stopped(tmp_path, sweep):
    assert "skipped" not in sweep()
    runs = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert len(runs) == 2
    assert all(".hydra" not in {p.name for p in run.iterdir()} for run in runs)
    assert "learning_rate=0.001" in runs[0].name

    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**record, "status": "running"}))
    stamps = [(run / "metrics.csv").stat().st_mtime_ns for run in runs]
    printed = sweep()
    assert printed.count("skipped, already finished") == 1
    assert runs[0].name in printed.splitlines()[0]
    again = [(run / "metrics.csv").stat().st_mtime_ns for run in runs]
    assert (again[0] == stamps[0], again[1] > stamps[1]) == (True, True)
    assert json.loads((runs[1] / "run.json").read_text())["status"] == "completed"
    assert sweep().count("skipped") == 2


def test_sweep_with_another_setting_runs_beside_the_old_one(tmp_path, sweep):
    sweep()
    assert "skipped" not in sweep("seed=1")
    assert len(list(tmp_path.rglob("run.json"))) == 4


DIRECTORIES = {
    "defaults": ([], "runs/quickstart"),
    "own settings": (["seed=3"], "runs/quickstart__seed=3"),
    "own directory": (["seed=3", "output_dir=here"], "here"),
}


@pytest.mark.parametrize(("overrides", "expected"), DIRECTORIES.values(), ids=DIRECTORIES)
def test_directory_of_a_single_run(tmp_path, monkeypatch, capsys, overrides, expected):
    monkeypatch.chdir(tmp_path)
    seen = []

    def pretend(settings, directory, choices):
        seen.append((settings, directory, choices))
        raise UserError("far enough")

    monkeypatch.setattr(training, "train", pretend)
    with pytest.raises(SystemExit) as end:
        main(["-cn", "quickstart", *overrides])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: far enough\n"
    [(settings, directory, choices)] = seen
    assert directory == tmp_path / expected
    assert settings.data.name == "digits"
    assert choices == {"config_name": "quickstart", "quickstart": "adam", "optimizer": "adam"}
