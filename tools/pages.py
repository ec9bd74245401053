"""Run the Python code of a page of the documentation, as a reader would.

    python tools/pages.py docs/tutorial.md --out docs/figures

runs the page's blocks one after the other in a temporary directory, and moves the pictures that
they save there to the directory `--out`.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def code_blocks(page: Path) -> list[str]:
    """The Python blocks of a Markdown page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def run(page: Path, names: dict[str, Any] | None = None, max_epochs: int | None = None) -> dict:
    """Run the blocks of a page in the current directory; return the names that they define.

    Args:
        page: A Markdown page.
        names: What the page takes for granted, by name; nothing by default.
        max_epochs: Most epochs of a `fit`; None (default) for as many as the page says.
    """
    names = dict(names or {})
    for number, block in enumerate(code_blocks(page), 1):
        if max_epochs is not None:
            block = re.sub(
                r"\bepochs=(\d+)", lambda found: f"epochs={min(int(found[1]), max_epochs)}", block
            )
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)  # noqa: S102
    return names


def main(arguments: Sequence[str]) -> int:
    """Run the page that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/pages.py", description="Run the Python code of a page."
    )
    parser.add_argument("page", type=Path, help="a Markdown page, such as docs/tutorial.md")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where to put its pictures"
    )
    options = parser.parse_args(arguments)
    page, out = options.page.resolve(), options.out.resolve()
    os.environ.setdefault("MPLBACKEND", "Agg")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        run(page)
        for picture in sorted(Path().glob("*.png")):
            shutil.move(picture, out / picture.name)
            print(out / picture.name)
        os.chdir(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
