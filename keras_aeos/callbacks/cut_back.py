"""Log files of a training that is continued, cut back to an update."""

import csv
import io
import math
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from tensorboard.compat.proto import event_pb2

from keras_aeos import array_files
from keras_aeos.callbacks import writers
from keras_aeos.callbacks.quantities import TEXT

# Of a record of TensorBoard: its length and the checksum of that before, and a checksum after it.
_BEFORE, _AFTER = struct.Struct("<QI"), 4


def read_rows(path: pathlib.Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a CSV file with these columns; none if it has others.

    A last line without an end is left out.

    Raises:
        OSError: If the file can't be read.
    """
    content = path.read_bytes()
    text = content[: content.rfind(b"\n") + 1].decode(errors="replace")
    header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    if header != list(columns):
        return []
    return [
        dict(zip(columns, map(_value, columns, line), strict=True))
        for line in lines
        if len(line) == len(columns)
    ]


def _value(column: str, text: str) -> Any:
    """What `csv` has written: a Boolean, a number or a text."""
    if column in TEXT and text != "nan":
        return text
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def has_other_rows(
    path: pathlib.Path, columns: Sequence[str], rows: Iterable[writers.Row], step: int
) -> bool:
    """Whether a CSV file has other columns, or rows up to a step that are not among `rows`.

    Raises:
        OSError: If the file can't be read.
    """
    header = writers.csv_line(columns)
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines or header.startswith(b"".join(lines)):
        return False
    known = {writers.csv_line([row[name] for name in columns]) for row in rows}
    place = list(columns).index("step")
    return lines[0] != header or any(
        line not in known
        for line in lines[1:]
        if line.endswith(b"\n") and _step(line.split(b","), place) <= step
    )


def _step(values: list[bytes], place: int) -> float:
    """The step of a line; infinite if it has none, as an incomplete last line."""
    try:
        return int(values[place])
    except (IndexError, ValueError):
        return math.inf


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Iterable[writers.Row]) -> None:
    """Write a CSV file anew, whole or not at all.

    Raises:
        OSError: If it can't be written.
    """
    lines = [writers.csv_line([row[name] for name in columns]) for row in rows]
    content = b"".join([writers.csv_line(columns), *lines])
    array_files.whole(path, lambda file: file.write(content))


def cut_events(directory: pathlib.Path, step: int) -> None:
    """Cut the TensorBoard events after a step, and a record that is not complete, from files.

    A file belongs to one process, whose events follow each other in the order of their steps.

    Raises:
        OSError: If a file can't be changed.
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
        with path.open("r+b") as file:
            content = file.read()
            size = _size_until(content, step)
            if size < len(content):
                file.truncate(size)


def _size_until(content: bytes, step: int) -> int:
    """Size of the complete records before the first one with a later step."""
    begin = 0
    while begin + _BEFORE.size + _AFTER <= len(content):
        length, _ = _BEFORE.unpack_from(content, begin)
        data = content[begin + _BEFORE.size : begin + _BEFORE.size + length]
        end = begin + _BEFORE.size + length + _AFTER
        if end > len(content):
            break
        try:
            event = event_pb2.Event.FromString(data)
        except Exception:  # damage; protobuf's versions have errors of several types
            break
        if event.step > step:
            break
        begin = end
    return begin
