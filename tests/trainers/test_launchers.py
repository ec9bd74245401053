"""Sweeps whose jobs run at the same time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
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
# A process of its own, because submitit closes the files for output of the one that it is used in.
LAUNCH = """
import sys
from types import SimpleNamespace
from trainers import launchers
from trainers.__main__ import main

launchers.sys = SimpleNamespace(executable=sys.argv[1])
main(sys.argv[2:])
"""


@pytest.fixture
def fake(tmp_path):
    path = tmp_path / "python"
    path.write_text(FAKE)
    path.chmod(0o755)
    return str(path)


def check(status, printed):
    """Check what a sweep of three jobs has said, one of which failed."""
    assert status == 1
    commands = [line for line in printed.splitlines() if line.startswith("-m trainers")]
    assert len(commands) == 3
    for number, command in enumerate(sorted(commands)):
        assert command.startswith("-m trainers --config-name quickstart --config-dir")
        assert command.endswith(f"--multirun seed=0,1,2 optimizer=adam --job {number}")
    assert printed.count("no disk") == 1


def test_every_job_is_a_process_and_failures_are_told(fake, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(launchers, "sys", SimpleNamespace(executable=fake))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([*SWEEP, "--launcher", "processes", "--launcher-settings", "{jobs: 2}"])
    check(end.value.code, capfd.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("submitit", "{cluster: local, timeout_min: 1}"), ("ray", "{num_cpus: 1}")],
)
def test_every_job_is_one_of_the_package(name, settings, fake, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    command = [*SWEEP, "--launcher", name, "--launcher-settings", settings]
    root, path = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, fake, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, path)))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    check(done.returncode, done.stdout)


MISTAKES = {
    "no mapping": ("processes", "[1, 2]", "expected keys with values"),
    "no YAML": ("processes", "{a: [", "expected keys with values"),
    "another key": ("processes", "{workers: 2}", "expected the keys jobs"),
    "no number": ("processes", "{jobs: many}", "expected the keys jobs"),
    "no time": ("processes", "{minutes: 0}", "minutes, above 0"),
}


@pytest.mark.parametrize(("name", "settings", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_settings_that_cannot_be_used_are_named(name, settings, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main([*SWEEP, "--launcher", name, "--launcher-settings", settings])
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
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


def test_sweep_that_ran_out_of_time_says_so(monkeypatch, capsys):
    monkeypatch.setitem(launchers.LAUNCHERS, "processes", lambda *_: ((0, "") for _ in range(2)))
    assert launchers.launch("processes", "", [], 3) is False
    assert "after 2 of 3 jobs; the same command goes on" in capsys.readouterr().out
    assert launchers.launch("processes", "", [], 2) is False
    assert capsys.readouterr().out == ""


def test_time_that_is_over_ends_what_runs_and_starts_nothing_more():
    commands = [["sleep", "60"], ["sleep", "60"]]
    settings = {"jobs": 1, "minutes": 0.005}
    assert list(launchers.LAUNCHERS["processes"](launchers.executor(), commands, settings)) == []


@pytest.mark.parametrize(
    ("jobs", "own", "expected"), [(1, None, "8"), (3, None, "2"), (20, None, "1"), (3, "5", "5")]
)
def test_processes_share_the_processors(jobs, own, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", own)
    command = ["/bin/sh", "-c", "printf %s $TF_NUM_INTRAOP_THREADS"]
    processes = launchers.LAUNCHERS["processes"]
    results = list(processes(launchers.executor(), [command] * 9, {"jobs": jobs}))
    assert results == [(0, expected)] * 9
    # No more at once than there are.
    [result] = processes(launchers.executor(), [command], {"jobs": jobs})
    assert result == (0, own or "8")
    assert os.environ.get("TF_NUM_INTRAOP_THREADS") == own
