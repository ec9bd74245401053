"""Tables of measurements, as Markdown."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_rows(rows: Iterable[dict[str, str]]) -> None:
    """Print a table row by row, as the measurements finish; the keys are the column headers."""
    for index, row in enumerate(rows):
        if index == 0:
            print("| " + " | ".join(row) + " |\n" + "| --- " * len(row) + "|")
        print("| " + " | ".join(row.values()) + " |", flush=True)


def markdown(formats: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for each format, numbers aligned to the right."""
    numbers = [not all(isinstance(row.get(key), str | None) for row in rows) for key in formats]
    lines = [
        "| " + " | ".join(formats) + " |",
        "| " + " | ".join("---:" if number else "---" for number in numbers) + " |",
    ]
    lines += [
        "| " + " | ".join(cell(spec, row.get(key)) for key, spec in formats.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def redrawn(page: str, tables: Mapping[str, str]) -> str:
    """A page with new tables between `<!-- NAME -->` and `<!-- end -->`, for each name there is."""

    def between(match: re.Match) -> str:
        if match[1] not in tables:
            return match[0]
        return f"<!-- {match[1]} -->\n\n{tables[match[1]]}\n\n<!-- end -->"

    return re.sub(r"<!-- ([\w -]+) -->\n.*?<!-- end -->", between, page, flags=re.DOTALL)


def cell(spec: str, value: Any) -> str:
    """A value in its format; a dash for none."""
    return "–" if value is None else spec.format(value)


def draw(file: Mapping[str, Any], formats: Mapping[str, str]) -> str:
    """The table of a stored file: a column a case, or a row a case if there are more of them."""
    cases = {name: case["results"] for name, case in file["cases"].items() if "results" in case}
    if not cases:
        return ""
    if len(cases) > len(formats):
        rows = [{"": name, **numbers} for name, numbers in cases.items()]
        return markdown({"": "{}", **formats}, rows)
    lines = ["| | " + " | ".join(cases) + " |", "| --- |" + " ---: |" * len(cases)]
    for label, spec in formats.items():
        cells = [cell(spec, numbers.get(label)) for numbers in cases.values()]
        if set(cells) != {"–"}:
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def caption(file: Mapping[str, Any]) -> str:
    """What was measured on and with, and what was not measured."""
    device, cases = file["device"], file["cases"]
    measured = [case for case in cases.values() if "results" in case]
    where = (
        f"{device['name']}, driver {device['driver']}"
        if device["kind"] == "gpu"
        else f"{device['cores']} cores, {device['name']}"
    )
    states = sorted(
        {
            f"TensorFlow {case['versions']['tensorflow']}, Keras {case['versions']['keras']}, "
            f"Python {case['versions']['python']}, source {case['source']}, {case['date']}"
            for case in measured
        }
    )
    text = f"{where}; {'; '.join(states)}; {sum(c['seconds'] for c in measured):.0f} s in all."
    failed = [f"{name} ({case['error']})" for name, case in cases.items() if "error" in case]
    return filled(text + (f" Not measured: {'; '.join(failed)}." if failed else ""))


def filled(text: str) -> str:
    """Prose in lines of the width of the pages, with room for Greek letters of several bytes."""
    return textwrap.fill(text, 94, break_long_words=False, break_on_hyphens=False)
