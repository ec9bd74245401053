"""The monitor's default log directory is relative to the working directory."""

import pytest


@pytest.fixture(autouse=True)
def in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
