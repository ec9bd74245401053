"""Mutated command lines and files: each is a valid run, or is refused in one line."""

import dataclasses
import itertools
import random
import signal
from typing import Any

import pytest

from trainers import command_line, composition, schema
from trainers.errors import UserError

SEED = 20
VALUES = (
    *("-1", "0", "1", "1.5", "2", "7", "1e3", "1e400", "-inf", "nan", "null", "true", "abc", "''"),
    *("[1]", "[]", "{a:1}", "{}", "0x10", "1_000", "9" * 30, "[1,null]", "[[sharpness]]", "é"),
    *("${seed}", "${steps}", "${nowhere}", "${oc.env:NO_SUCH}", "${", "'a b'", "'a\\0b'", "~/x"),
    *("1,2", "1,2,x", "range(1,4)", "range(1,100000000)", "range(1,3,0)", "glob(*)", "choice()"),
    *("interval(1,2)", "a" * 300, "/", "../x", "'x\ny'", "digits", "adam", "tanh", "[5,1]", "*"),
)
CONFIGURATIONS = ("quickstart", "quickstart", "fully_connected", "quadratic", "fig02", "cnn")
FLAGS = ((), (), (), ("-m",), ("--cfg", "job"), ("-m", "--cfg", "job"), ("--fast",), ("-cn", "x"))
FILE = """defaults:
  - quickstart
  - _self_
model: {width: 12, activation: relu}
optimizer:
  learning_rate: 1e-3
data:
  num_examples: 100
monitor:
  quantities: [sharpness, alignment]
  every_step: [3, 9]
steps: 50
output_dir: runs/mine
"""
LINES = (
    *("steps: [", "steps: *x", "a: &a [*a]", "monitor: &m\n  rtol: *m", "optimizer: adam"),
    *("data: digits", "hydra: null", "hydra: 3", "hydra: {job: {env_set: {PATH: /x}}}", "- 1"),
    *(
        "steps: !!python/name:os.system",
        "steps: 2001-01-01",
        "null: 2",
        "? [a, b]\n: 3",
        "\t",
        "---",
    ),
    *("x: " + "[" * 2000, "steps: " + "9" * 5000, "model: null", "hydra: {mode: MULTIRUN}"),
    "hydra: {mode: MULTIRUN, sweeper: {params: {steps: [1, 2]}}}",
    "hydra: {mode: MULTIRUN, sweeper: {params: {steps: '10,20', seed: 'range(0,2)'}}}",
    "hydra: {callbacks: {x: {_target_: os.getcwd}}}",
    *("schedule: {after: inverse_square_root}", "freeze_step: 60", "evaluation: {freq: 5}", "\0"),
)


def keys():
    """Every key of every section, and keys that are none."""
    sections: dict[str, Any] = {
        f"{group}.": kinds.values() for group, kinds in schema.GROUPS.items()
    }
    sections |= {"": schema.RUNS.values(), "monitor.": [schema.Monitor], "stop.": [schema.Stop]}
    sections |= {"data.": [schema.Data, *sections["data."]], "schedule.": [schema.Schedule]}
    found = {
        prefix + field.name
        for prefix, kinds in sections.items()
        for kind in kinds
        for field in dataclasses.fields(kind)
    }
    return [*sorted(found), "stps", "a.b.c", "hydra.mode", "hydra.run.dir", "hydra/launcher", ""]


def settings(randomly, count):
    """Lines of the form key=value, most of them wrong."""
    signs = ("", "", "", "", "", "+", "++", "~")
    known = keys()
    return [
        f"{randomly.choice(signs)}{randomly.choice(known)}={randomly.choice(VALUES)}"
        for _ in range(count)
    ]


def mutated(randomly):
    """The file with a line put in or taken out, or a few characters changed."""
    lines = FILE.splitlines()
    if randomly.random() < 0.5:
        place = randomly.randrange(len(lines) + 1)
        lines[place : place + randomly.randrange(2)] = [randomly.choice(LINES)]
        return "\n".join(lines) + "\n"
    text = FILE
    for _ in range(randomly.randrange(1, 4)):
        place = randomly.randrange(len(text))
        text = (
            text[:place]
            + randomly.choice(["", "x", " ", ":", "[", "}", "'", "&", "-1", "\n"])
            + (text[place + randomly.randrange(2) :])
        )
    return text


def outcome(arguments):
    """Why a command is refused; None for a valid one, and what went wrong for any other end."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    try:
        command_line.jobs(command_line.parse(arguments))
    except UserError as error:
        message = str(error)
        return None if message and "\n" not in message else f"not one line: {message!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


# Hypothesis watches the garbage collector; in the depth of a value that refers to itself it can't.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*gc_callback")
@pytest.mark.parametrize(
    "part", [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in (2, 3))]
)
def test_mutated_command_line_ends_in_one_line(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    randomly = random.Random(SEED + part)  # noqa: S311 - a seeded choice of mutations
    wrong = {}
    for _ in range(450):
        name, flags = randomly.choice(CONFIGURATIONS), randomly.choice(FLAGS)
        arguments = ["-cn", name, *flags, *settings(randomly, randomly.choice((1, 1, 2)))]
        if (problem := outcome(arguments)) is not None:
            wrong[" ".join(arguments)] = problem
    assert wrong == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", range(2))
def test_mutated_file_ends_in_one_line(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    randomly = random.Random(SEED + part)  # noqa: S311 - a seeded choice of mutations
    wrong = {}
    for _ in range(100):
        text = mutated(randomly)
        (tmp_path / "mine.yaml").write_text(text)
        if (problem := outcome(["-cn", "mine", "-cd", str(tmp_path)])) is not None:
            wrong[text] = problem
    assert wrong == {}
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_unmutated_file_is_a_valid_run(tmp_path):
    (tmp_path / "mine.yaml").write_text(FILE)
    [job] = command_line.jobs(command_line.parse(["-cn", "mine", "-cd", str(tmp_path)])).jobs
    assert isinstance(job.config, schema.Config)
    assert job.config.monitor.every_step == [3, 9]


def test_file_of_many_aliases_is_refused_at_once(tmp_path):
    levels = "abcdefgh"
    lines = ["a: &a [0,0,0,0,0,0,0,0,0]"]
    for above, level in itertools.pairwise(levels):
        lines.append(f"{level}: &{level} [{','.join([f'*{above}'] * 9)}]")
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="at most"):
        composition.check_file(tmp_path / "mine.yaml")
