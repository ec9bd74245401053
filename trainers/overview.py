"""What there is to run: every configuration with the first sentence of its file, in groups."""

import re
import textwrap
from pathlib import Path

from trainers.composition import CONFIGS, names

_WIDTH = 100
# Title, example and which configurations; the first group that takes a name has it.
_GROUPS = (
    (
        "To begin with, on a laptop and without a download",
        "python -m trainers --config-name quickstart",
        re.compile(r".*quickstart|quadratic"),
    ),
    (
        "Figures and tables of the paper, each a sweep",
        "python -m trainers --config-name fig01 panel=a scale=laptop",
        re.compile(r"fig|table"),
    ),
    (
        "Networks",
        "python -m trainers --config-name cnn optimizer=rmsprop optimizer.learning_rate=1e-4",
        re.compile(r""),
    ),
)
_MORE = """\
more examples:
  python -m trainers --config-name cnn --cfg job                      the complete configuration
  python -m trainers --config-name cnn -m optimizer.learning_rate=1e-4,3e-4            a sweep"""


def overview() -> str:
    """The groups, each with an example and its configurations, and the optimizers."""
    left = names(CONFIGS)
    parts = []
    for title, example, pattern in _GROUPS:
        members = [name for name in left if pattern.match(name)]
        left = [name for name in left if name not in members]
        width = max(map(len, members))
        lines = [_entry(name, width) for name in members]
        parts.append("\n".join([f"{title}:", f"  example: {example}", "", *lines]))
    optimizers = textwrap.fill(
        ", ".join(names(CONFIGS / "optimizer")),
        _WIDTH,
        initial_indent="optimizer=NAME: ",
        subsequent_indent="  ",
    )
    return "\n\n".join([*parts, optimizers, _MORE])


def _entry(name: str, width: int) -> str:
    begin = f"  {name.ljust(width)}  "
    return textwrap.fill(
        purpose(CONFIGS / f"{name}.yaml"),
        _WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
    )


def purpose(path: Path) -> str:
    """The first sentence of the comment at the head of a file."""
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#  "):  # the end, or a command
            break
        comment.append(line.removeprefix("# "))
    return re.split(r"\.(?:\s|$)", " ".join(comment))[0]
