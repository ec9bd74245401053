"""Runs that are found and read, their names, and what happened in them."""

import math
import struct
import zipfile

import pytest

from keras_aeos.summaries import runs as runs_module
from keras_aeos.summaries.edge import ABOVE, AROUND, claim
from keras_aeos.summaries.events import events
from keras_aeos.summaries.runs import RunError, read_runs
from tests.summaries import made_up

nan = math.nan


def test_runs_of_a_sweep_are_named_by_what_differs(tmp_path):
    for name, rate in (("x", 0.0001), ("y", 0.00032)):
        made_up.write(tmp_path / "deep" / name, rate)
    made_up.write(tmp_path / "deep" / "x.replaced-1", 0.5)
    runs = read_runs([tmp_path])
    assert [run.name for run in runs] == ["eta=1e-4", "eta=3.2e-4"]
    assert [run.summary.edge_step for run in runs] == [60, 60]
    assert {run.optimizer for run in runs} == {"adam"}


def test_runs_without_a_configuration_have_their_directories_names(tmp_path):
    for name in ("a/one", "b/one", "two"):
        made_up.write(tmp_path / name)
    assert [run.name for run in read_runs([tmp_path])] == ["one", "one-2", "two"]


def test_runs_are_read_from_archives(tmp_path):
    directory = made_up.write(tmp_path / "run", 0.0001)
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as file:
        for path in directory.iterdir():
            file.write(path, f"sweep/run/{path.name}")
    [packed] = read_runs([tmp_path / "runs.zip"])
    [plain] = read_runs([directory])
    assert packed.metrics.equals(plain.metrics)
    assert packed.config == plain.config


# What is done to a run, and a word of the error.
DAMAGES = {
    "no run": (lambda d: (d / "metrics.csv").unlink(), "no run"),
    "empty table": (lambda d: (d / "metrics.csv").write_text(""), "damaged"),
    "another table": (lambda d: (d / "metrics.csv").write_text("a,b\n1,2\n"), "it lacks step"),
    "words": (
        lambda d: made_up.metrics(loss="x").to_csv(d / "metrics.csv", index=False),
        "numbers in loss",
    ),
    "half a record": (lambda d: (d / "run.json").write_text("{"), "damaged"),
    "a list as record": (lambda d: (d / "run.json").write_text("[]"), "damaged"),
    "half a configuration": (lambda d: (d / "config.yaml").write_text("a: [1"), "config.yaml"),
}


@pytest.mark.parametrize(("damage", "part"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_run_is_named_in_one_line(tmp_path, damage, part):
    directory = made_up.write(tmp_path / "run", 0.1)
    damage(directory)
    with pytest.raises(RunError, match=part) as error:
        read_runs([directory])
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_or_huge_archive_is_named_in_one_line(tmp_path, monkeypatch):
    directory = made_up.write(tmp_path / "run", 0.1)
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(directory / "metrics.csv", "run/metrics.csv")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"0.1", b"0.7", 1))
    with pytest.raises(RunError, match="is damaged: Bad CRC-32"):
        read_runs([archive])
    archive.write_bytes(content)
    monkeypatch.setattr(runs_module, "_MAX_UNPACKED", 10)
    with pytest.raises(RunError, match="holds more than 1 GiB"):
        read_runs([archive])


def test_events_of_an_impossible_length_are_left_out(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    assert runs_module._first_text(path) == ""


def test_share_of_steps_at_the_edge(tmp_path):
    """Of 120 steps, 0.95 to 1.04 stand for 80, and a fall below 0.9 would count for nothing."""
    [run] = read_runs([made_up.write(tmp_path / "run", 0.1)])
    assert run.summary.share_at_edge == pytest.approx(80 / 120)


CLAIMS = {
    "gradient_descent": ({}, ABOVE), "GradientDescent": ({}, ABOVE), "adam": ({}, AROUND),
    "SGD": ({"momentum": 0.0}, ABOVE), "sgd": ({"momentum": 0.9}, AROUND),
    "Sgd": ({"momentum": 0.9, "nesterov": True}, ABOVE), "RMSprop": ({}, ABOVE),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", CLAIMS)
def test_claim_of_an_optimizer(optimizer):
    settings, expected = CLAIMS[optimizer]
    assert claim(optimizer, settings) == expected


# Columns of a run, and the kinds and steps of its events.
EVENTS = {
    "reaches the edge and crosses it": ({}, [("crossing", 60, 60), ("crossing", 80, 120)]),
    "starts above": ({"ratios": [1.5, 1.2, 1.1]}, [("crossing", 20, 20)]),
    "stable": ({"ratios": [0.1, 0.2, 0.3]}, []),
    "spike": (
        {"ratios": [0.1] * 5, "loss": [2.0, 1.0, 3.0, 1.0, 0.9]},
        [("spike", 60, 60)],
    ),
    "failed": ({"ratios": [0.1, nan, nan, 0.2]}, [("alarm", 40, 60)]),
    "not converged": (
        {"ratios": [0.1, 0.2, 0.3, 0.4], "converged": [True, False, True, False]},
        [("alarm", 40, 40), ("alarm", 80, 80)],
    ),
    "loose bound": ({"ratios": [0.1, 0.1], "upper_bound": [39.0, 80.0]}, [("alarm", 40, 40)]),
    "never exact": ({"ratios": [0.1, 0.1], "exact": False}, [("alarm", 20, 40)]),
}


@pytest.mark.parametrize(("columns", "expected"), EVENTS.values(), ids=EVENTS)
def test_events_of_a_run(columns, expected):
    found = events(made_up.metrics(**columns))
    assert [(event.kind, event.first, event.last) for event in found] == expected
