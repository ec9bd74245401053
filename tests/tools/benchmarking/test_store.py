"""Stored numbers, the tables drawn from them, and the page that shows them."""

import getpass
import json
import platform
import re
import tempfile
from pathlib import Path

import pytest

from tools.benchmarking import bars, page, store, tables
from tools.benchmarking.benchmarks import BENCHMARKS
from tools.benchmarking.worker import described


@pytest.fixture
def curvature(tmp_path):
    return store.Store("curvature", tmp_path)


def test_the_pages_show_what_is_stored():
    texts = [path.read_text(encoding="utf-8") for path in page.PAGES]
    for text in texts:
        assert page.drawn(text) == text
    text = "".join(texts)
    names = re.findall(r"<!-- (?!end)(\w+) -->", text)
    assert sorted(names) == sorted([*BENCHMARKS, "bars"])


@pytest.mark.parametrize("path", sorted(store.DIRECTORY.glob("*/*.json")), ids=lambda p: p.stem)
def test_stored_files_tell_nothing_of_the_machine_but_its_device(path):
    text = path.read_text(encoding="utf-8")
    paths = [Path.home(), tempfile.gettempdir(), store.DIRECTORY.parents[1]]
    private = [platform.node(), f"/{getpass.getuser()}", *map(str, paths)]
    assert not [word for word in private if word in text]
    for case in json.loads(text)["cases"].values():
        assert ("results" in case) != ("error" in case)
        assert {"date", "command", "commit", "source", "versions", "seconds"} <= case.keys()


def test_only_numbers_of_the_present_source_are_finished(curvature, monkeypatch):
    curvature.keep("a", 1.0, results={"product": 1.23456789})
    curvature.keep("b", 1.0, error="TypeError: no")
    assert curvature.finished() == {"a"}
    curvature.keep("a", 1.0, error="an error replaces no numbers")
    assert curvature.finished() == {"a"}
    monkeypatch.setattr(store, "source", lambda: "another")
    assert not curvature.finished()
    curvature.keep("a", 1.0, error="but older ones")
    stored = json.loads(curvature.path.read_text(encoding="utf-8"))["cases"]
    assert stored["a"]["error"] == "but older ones"


def test_numbers_are_rounded_and_not_finite_ones_are_none(curvature):
    curvature.keep("a", 1.0, results={"x": 1.23456789, "y": float("nan"), "z": [0.1 + 0.2]})
    stored = json.loads(curvature.path.read_text(encoding="utf-8"))["cases"]["a"]["results"]
    assert stored == {"x": 1.2346, "y": None, "z": [0.3]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no file /home/someone/x/data.txt here\nmore", "ValueError: no file data.txt here"),
        ("input 1/2 and a/b", "ValueError: input 1/2 and a/b"),
    ],
)
def test_errors_are_told_without_directories(text, line):
    assert described(ValueError(text)) == line


def case(**results):
    versions = {"tensorflow": "1", "keras": "2", "python": "3"}
    return {
        "results": results,
        "versions": versions,
        "source": "s",
        "date": "d",
        "seconds": 1.0,
    }


def test_a_table_has_the_longer_side_as_its_rows():
    formats = {"x": "{:.1f}", "y": "{:.0%}"}
    wide = {"cases": {"a": case(x=1.25, y=0.5)}}
    assert tables.draw(wide, formats).splitlines()[2:] == ["| x | 1.2 |", "| y | 50% |"]
    long = {"cases": {name: case(x=1.25, y=None) for name in "abc"}}
    assert tables.draw(long, formats).splitlines()[2:] == [f"| {n} | 1.2 | – |" for n in "abc"]


def test_failed_cases_are_named_below_their_device():
    device = {"kind": "cpu", "cores": 2, "name": "P"}
    file = {"device": device, "cases": {"a": case(x=1.0), "b": {"error": "TypeError: no"}}}
    lines = tables.caption(file).splitlines()
    assert max(map(len, lines)) < 100
    caption = " ".join(lines)
    assert caption.startswith("2 cores, P; TensorFlow 1")
    assert caption.endswith("Not measured: b (TypeError: no).")


@pytest.mark.parametrize(
    ("measured", "cells"),
    [
        (1.45, "| 1.45 | 1.45 | yes |"),
        (1.46, "| 1.45 | 1.46 | **no** |"),
        (None, "| not run | – |"),
    ],
)
def test_a_bar_holds_up_to_its_value(tmp_path, monkeypatch, measured, cells):
    monkeypatch.setattr(store, "device", lambda: {"id": "cpu-2", "kind": "cpu"})
    kept = store.Store("curvature", tmp_path)
    if measured is not None:
        kept.keep("fully_connected", 1.0, results={"product": measured})
    row = bars.draw(tmp_path).splitlines()[2]
    assert cells in row
    assert row.endswith("| 1.3 | not run | – |")


def test_a_bar_reads_numbers_that_are_stored_as_they_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "device", lambda: {"id": "cpu-2", "kind": "cpu"})
    store.Store("rows", tmp_path).keep("residual", 1.0, results={"in gradients": "6.1"})
    (row,) = (
        line
        for line in bars.draw(tmp_path).splitlines()
        if "after a minute of training, res" in line
    )
    assert "| 6 | 6.10 | **no** |" in row
