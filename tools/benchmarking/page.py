"""The tables of the pages on cost, drawn from the stored numbers."""

import re
from pathlib import Path

from tools.benchmarking import bars
from tools.benchmarking.benchmarks import BENCHMARKS
from tools.benchmarking.store import DIRECTORY, ROOT, stored
from tools.benchmarking.tables import caption

PAGES = tuple(ROOT / "docs" / name for name in ("benchmark.md", "scaling.md"))


def drawn(text: str, directory: Path = DIRECTORY) -> str:
    """A page with the tables between `<!-- NAME -->` and `<!-- end -->` drawn again.

    Args:
        text: The page.
        directory: Where the stored numbers are.

    Raises:
        KeyError: If a name is neither "bars" nor that of a benchmark.
    """

    def table(match: re.Match) -> str:
        name = match[1]
        inside = bars.draw(directory) if name == "bars" else _tables(name, directory)
        return f"<!-- {name} -->\n\n{inside}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def draw() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        page.write_text(drawn(page.read_text(encoding="utf-8")), encoding="utf-8")


def _tables(name: str, directory: Path) -> str:
    draw = BENCHMARKS[name].draw
    parts = [f"{caption(file)}\n\n{draw(file)}".strip() for file in stored(name, directory)]
    return "\n\n".join(parts) or "Not run."
