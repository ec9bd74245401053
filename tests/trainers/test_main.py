"""What a command runs, where, and what a sweep does not run again."""

import json

import pytest
import yaml

from trainers import command_line, run_directory, training
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
    printed = sweep()
    assert "skipped" not in printed
    runs = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert len(runs) == 2
    assert all(".hydra" not in {p.name for p in run.iterdir()} for run in runs)
    assert "learning_rate=0.001" in runs[0].name
    # The runs have short names for TensorBoard.
    tensorboard = "runs/quickstart/tensorboard"
    assert printed.splitlines()[0] == f"TensorBoard: tensorboard --logdir {tensorboard}"
    links = sorted((tmp_path / tensorboard).iterdir())
    assert [link.name for link in links] == ["eta=1e-3", "eta=2e-3"]
    assert [link.resolve() for link in links] == [run / "tensorboard" for run in runs]

    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**record, "status": "running"}))
    stamps = [(run / "metrics.csv").stat().st_mtime_ns for run in runs]
    printed = sweep()
    assert printed.count("skipped, already finished") == 1
    assert runs[0].name in printed.splitlines()[1]
    again = [(run / "metrics.csv").stat().st_mtime_ns for run in runs]
    assert (again[0] == stamps[0], again[1] > stamps[1]) == (True, True)
    assert json.loads((runs[1] / "run.json").read_text())["status"] == "completed"
    assert sweep().count("skipped") == 2


@pytest.mark.slow
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


DAMAGED = {
    "half a record": ("run.json", '{"status": "comp'),
    "a list as record": ("run.json", "[]"),
    "half a configuration": ("config.yaml", "model: {a: [1"),
    "no configuration": ("config.yaml", ""),
}


@pytest.mark.parametrize(("name", "content"), DAMAGED.values(), ids=DAMAGED)
def test_sweep_names_a_damaged_record_in_one_line(tmp_path, monkeypatch, capsys, name, content):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "out" / "seed=0"
    run.mkdir(parents=True)
    run_directory.write(run, {"status": "completed", "choices": {}})
    (run / "config.yaml").write_text("optimizer: {name: adam}")
    (run / name).write_text(content)
    with pytest.raises(SystemExit) as end:
        main(["-cn", "quickstart", "-m", "seed=0,1", "output_dir=out"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(run / name) in lines[0]
    assert (run / name).read_text() == content


@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["single", "sweep"])
def test_configuration_is_printed_and_nothing_runs(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    main(["-cn", "quickstart", *flags, "--cfg", "job", "seed=3"])
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 3
    assert list(tmp_path.iterdir()) == []


def test_directory_of_another_program_is_left_alone(tmp_path):
    (tmp_path / "run.json").write_text('{"name": "mine"}')
    with pytest.raises(UserError, match="holds other files"):
        run_directory.check_free(tmp_path)


def test_earlier_runs_are_moved_aside_one_by_one(tmp_path, capsys):
    [job] = command_line.jobs(command_line.parse(["-cn", "quickstart"])).jobs
    run = tmp_path / "run"
    for number in range(3):
        run_directory.start(run, job.config, {})
        (run / "metrics.csv").write_text(str(number))
    kept = [(tmp_path / f"run.replaced-{n}" / "metrics.csv").read_text() for n in (1, 2)]
    assert kept == ["0", "1"]
    assert capsys.readouterr().out.count("moved the earlier run") == 2
