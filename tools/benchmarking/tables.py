"""Tables of measurements, as Markdown on the standard output."""

from collections.abc import Iterable


def print_rows(rows: Iterable[dict[str, str]]) -> None:
    """Print a table row by row, as the measurements finish; the keys are the column headers."""
    for index, row in enumerate(rows):
        if index == 0:
            print("| " + " | ".join(row) + " |\n" + "| --- " * len(row) + "|")
        print("| " + " | ".join(row.values()) + " |", flush=True)
