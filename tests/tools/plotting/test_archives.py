"""Archives hold runs byte for byte, and figures are drawn from them as from directories."""

import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.tools.plotting import made_up
from tests.tools.plotting.made_up import drawn
from tools import figures
from tools.plotting import archives
from trainers.errors import UserError

FILES = ("config.yaml", "metrics.csv", "run.json")
RATES = (3e-5, 1e-4)


@pytest.fixture
def runs(tmp_path):
    """Two runs with all that a training leaves."""
    for rate in RATES:
        directory = made_up.write_training(tmp_path / "fig01" / "sweep", learning_rate=rate)
        (directory / "final.weights.h5").write_bytes(b"weights")
        (directory / "tensorboard").mkdir()
        (directory / "tensorboard" / "events").write_bytes(b"events")
    return tmp_path / "fig01"


@pytest.fixture
def archive(runs, tmp_path):
    archives.pack(runs, tmp_path / "archives" / "fig01.zip")
    return tmp_path / "archives" / "fig01.zip"


def test_archive_holds_what_figures_read(runs, archive):
    with zipfile.ZipFile(archive) as file:
        held = {name: file.read(name) for name in file.namelist()}
    files = [path for name in FILES for path in runs.rglob(name)]
    assert held == {str(path.relative_to(runs.parent)): path.read_bytes() for path in files}
    assert list(held) == sorted(held)


def test_archive_depends_on_the_contents_alone(runs, archive, tmp_path):
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(archive).extractall(unpacked)
    for path in unpacked.rglob("*.csv"):
        os.utime(path, (0, 0))
    archives.pack(unpacked / "fig01", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_archive_that_unpacks_to_too_much_is_refused(archive, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_BYTES", 1_000)
    with pytest.raises(UserError, match=r"it holds .* bytes, more than 1,000"):
        archives.run_directories(archive)


def test_directory_may_be_named_by_a_dot(runs, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(runs)
    archives.pack(Path(), tmp_path / "dot.zip")
    assert (tmp_path / "dot.zip").read_bytes() == archive.read_bytes()


def test_figure_is_drawn_from_an_archive_as_from_a_directory(runs, archive):
    _, expected = drawn(runs, "fig01")
    assert len(expected) == len(RATES)
    for place in (archive, archive.parent, archive.parent.parent / "archives"):
        _, table = drawn(place, "fig01")
        pd.testing.assert_frame_equal(table, expected)


def test_runs_come_from_directories_and_archives(runs, archive):
    made_up.write_training(archive.parent, learning_rate=1e-3)
    made_up.write_training(archive.parent / "sub" / "fig01", learning_rate=2e-3)
    archives.pack(archive.parent / "sub" / "fig01", archive.parent / "sub" / "more.zip")
    shutil.rmtree(archive.parent / "sub" / "fig01")
    _, table = drawn(archive.parent, "fig01")
    assert list(table["learning_rate"]) == [*RATES, 1e-3, 2e-3]


def test_run_at_the_top_of_an_archive_is_found(runs, tmp_path):
    [run, _] = sorted(path.parent for path in runs.rglob("run.json"))
    shutil.make_archive(str(tmp_path / "top"), "zip", run)
    assert len(drawn(tmp_path / "top.zip", "fig01")[1]) == 1


def test_runs_unpacked_beside_their_archive_are_told_apart(archive):
    zipfile.ZipFile(archive).extractall(archive.parent)
    with pytest.raises(UserError, match="have the same learning_rate") as error:
        drawn(archive.parent, "fig01")
    assert str(archive.parent / "fig01" / "sweep") in str(error.value)
    assert str(archive / "fig01" / "sweep") in str(error.value)


DAMAGES = made_up.damages("metrics", "edge_ratio")


@pytest.mark.parametrize(("damage", "parts"), DAMAGES.values(), ids=DAMAGES)
def test_broken_run_in_an_archive_is_named_with_the_archive(tmp_path, damage, parts):
    damage(made_up.write_training(tmp_path / "fig01", learning_rate=1e-4))
    shutil.make_archive(str(tmp_path / "fig01"), "zip", tmp_path, "fig01")
    with pytest.raises(UserError) as error:
        drawn(tmp_path / "fig01.zip", "fig01")
    assert "\n" not in str(error.value)
    assert [
        part for part in [str(tmp_path / "fig01.zip"), *parts] if part not in str(error.value)
    ] == []


def flip(archive):
    """Change a byte of the first member's compressed data."""
    contents = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        first = file.infolist()[0]
    contents[len(first.FileHeader()) + first.compress_size // 2] ^= 255
    archive.write_bytes(contents)


BROKEN_ARCHIVES = {
    "empty": lambda archive: archive.write_bytes(b""),
    "another format": lambda archive: archive.write_text("no archive"),
    "cut off": lambda archive: archive.write_bytes(archive.read_bytes()[:-100]),
    "end alone": lambda archive: archive.write_bytes(archive.read_bytes()[500:]),
    "changed": flip,
}


@pytest.mark.parametrize("damage", BROKEN_ARCHIVES.values(), ids=BROKEN_ARCHIVES)
def test_damaged_archive_is_named_in_one_line(archive, capsys, damage):
    damage(archive)
    assert figures.main(["fig01", str(archive.parent), "--out", str(archive.parent)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {archive} ")
    assert message.count("\n") == 1
