"""Sweeps whose jobs run at the same time."""

import json
import sys
from types import SimpleNamespace

import pytest

from trainers import launchers
from trainers.__main__ import main
from trainers.errors import UserError

# Stands in for Python: it prints its arguments, and fails as the job with number 1.
FAKE = """#!/bin/sh
echo "$*"
for last; do :; done
if [ "$last" = 1 ]; then echo "no disk" >&2; exit 1; fi
"""
SWEEP = ["-cn", "quickstart", "-m", "seed=0,1,2", "optimizer=adam"]


@pytest.fixture
def launched(tmp_path, monkeypatch, capfd):
    """Launches a sweep of three jobs; returns the status and what was printed."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setattr(launchers, "sys", SimpleNamespace(executable=str(fake)))
    monkeypatch.chdir(tmp_path)

    def launch(name, settings):
        with pytest.raises(SystemExit) as end:
            main([*SWEEP, "--launcher", name, "--launcher-settings", settings])
        return end.value.code, capfd.readouterr()

    return launch


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("processes", "{jobs: 2}"),
        # It leaves pytest without its files for output.
        pytest.param("submitit", "{cluster: local, timeout_min: 1}", marks=pytest.mark.slow),
        pytest.param("ray", "{num_cpus: 1}", marks=pytest.mark.slow),
    ],
)
def test_every_job_is_a_process_and_failures_are_told(name, settings, launched):
    if name != "processes":
        pytest.importorskip(name)
    status, printed = launched(name, settings)
    assert status == 1
    commands = [line for line in printed.out.splitlines() if line.startswith("-m trainers")]
    assert len(commands) == 3
    for number, command in enumerate(sorted(commands)):
        assert command.startswith("-m trainers --config-name quickstart --config-dir")
        assert command.endswith(f"--multirun seed=0,1,2 optimizer=adam --job {number}")
    assert printed.out.count("no disk") == 1


MISTAKES = {
    "no mapping": ("processes", "[1, 2]", "expected keys with values"),
    "no YAML": ("processes", "{a: [", "expected keys with values"),
    "another key": ("processes", "{workers: 2}", "expected the key jobs"),
    "no number": ("processes", "{jobs: many}", "expected the key jobs"),
}


@pytest.mark.parametrize(("name", "settings", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_settings_that_cannot_be_used_are_named(name, settings, expected, launched):
    if name != "processes":
        pytest.importorskip(name)
    status, printed = launched(name, settings)
    assert status == 2
    [line] = printed.err.splitlines()[-1:]
    assert expected in line


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[ray\]'"):
        launchers.launch("ray", "", [], 1)


OPTIONS = {
    "job of one run": (["-cn", "quickstart", "--job", "0"], "--job: expected a sweep"),
    "launcher of one run": (
        ["-cn", "quickstart", "--launcher", "processes"],
        "--launcher: expected a sweep",
    ),
    "no such job": ([*SWEEP, "--job", "3"], "expected a number from 0 to 2"),
    "settings alone": ([*SWEEP, "--launcher-settings", "{jobs: 2}"], "expected --launcher"),
    "unknown launcher": ([*SWEEP, "--launcher", "joblib"], "invalid choice"),
}


@pytest.mark.parametrize(("arguments", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_options_without_a_sweep_are_refused(arguments, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """Two real runs at a time; one of them is then marked as incomplete."""
    monkeypatch.chdir(tmp_path)
    arguments = ["-cn", "quickstart", "-m", "seed=0,1", "data.num_examples=60", "model.width=4"]
    arguments += ["steps=2", "monitor.update_freq=1", "--launcher", "processes"]
    main(arguments)
    assert "skipped" not in capsys.readouterr().out
    runs = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert len(runs) == 2
    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    main(arguments)
    assert capsys.readouterr().out.count("skipped, already finished") == 1
    assert json.loads((runs[1] / "run.json").read_text())["status"] == "completed"
