"""The commands of the documentation: shell and programs take them as they stand there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keras_aeos.summaries.command_line import parser
from trainers import command_line
from trainers.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What the shell runs in place of a program: it notes its arguments. Python reads a program of the
# page's own from the standard input.
NOTE = f"""\
#!/bin/bash
if [ "$*" = - ]; then exec {sys.executable} -; fi
printf '%s\\0' "${{0##*/}}" "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
"""
PROGRAMS = ("python", "pip", "tensorboard", "keras-aeos", "ruff", "mypy")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def calls(page: Path, directory: Path) -> list[list[str]]:
    """The programs that a page's blocks start, with their arguments."""
    programs, noted = directory / "programs", directory / "calls"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(NOTE)
        (programs / name).chmod(0o755)
    (directory / "docs").symlink_to(ROOT / "docs")
    (directory / "tests" / "curvature").mkdir(parents=True)
    script = "\n".join(["set -eu", "source() { :; }", *blocks(page)])
    result = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(noted)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [line.split("\0")[:-1] for line in noted.read_text().splitlines()]


def source(tool: Path) -> str:
    """A program with the modules beside it that it imports: one may hold its command line."""
    text = tool.read_text()
    names = re.findall(r"^from tools import (.*)$", text, re.MULTILINE)
    modules = [tool.parent / f"{name}.py" for line in names for name in line.split(", ")]
    return "\n".join([text, *(each.read_text() for each in modules if each.exists())])


def check(program: str, *arguments: str) -> None:
    """Fail unless the program takes these arguments."""
    match (program, *arguments):
        case ("python", "-m", "trainers"):
            pass
        case ("python", "-m", "trainers", *settings):
            assert command_line.jobs(command_line.parse(settings)).jobs
        case ("python", "-m", "pip", "install", *rest) | ("pip", "install", *rest):
            named = re.findall(r"\[(.*?)\]", " ".join(rest))
            assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)
        case ("python", "-m", "pytest", *rest):
            assert all((ROOT / r.lstrip("@")).exists() for r in rest if "/" in r)
        case ("python", str(tool), *rest) if tool.startswith("tools/"):
            text = source(ROOT / tool)
            assert all(f'"{r}"' in text for r in rest if r.startswith("--"))
        case ("keras-aeos", *rest):
            parser().parse_args(rest)


def with_marks(page):
    """The sweeps of the reproduction have many runs to compose."""
    marks = [pytest.mark.slow] if page.parent.name == "reproduction" else []
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [with_marks(page) for page in PAGES if blocks(page)])
def test_commands_are_understood(page, tmp_path):
    for call in calls(page, tmp_path):
        check(*call)


@pytest.mark.parametrize(
    "call",
    [
        ("python", "-m", "trainers", "-cn", "quickstart", "steeps=10"),
        ("python", "-m", "pip", "install", ".[reports]"),
        ("python", "-m", "pytest", "tests/absent.py"),
        ("python", "tools/gallery.py", "--outt", "docs"),
        ("python", "tools/alarms.py", "train", "--hours", "1"),
        ("keras-aeos", "summery", "runs"),
    ],
    ids=lambda call: " ".join(call),
)
def test_mistake_is_found(call):
    with pytest.raises((AssertionError, SystemExit, UserError)):
        check(*call)
