"""Files that grow by whole rows: CSV lines, and TensorBoard events."""

import csv
import io
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import record_writer

Row = Mapping[str, Any]


class RowFile:
    """A file to which every row is appended once, in order and whole.

    A row waits in memory until it is on the disk. A write that fails or is interrupted half-way is
    taken back, so that the file never ends in the middle of a row. The file is open only while
    rows are written.

    Args:
        header: Function without arguments that returns the bytes with which a new file begins.
        encode: Function ``encode(row, seconds)`` that returns the bytes of a row. `seconds` is the
            time at which the row was added, in seconds since the epoch.
    """

    def __init__(self, header: Callable[[], bytes], encode: Callable[[Row, float], bytes]) -> None:
        self._header = header
        self._encode = encode
        self._waiting: list[tuple[Row, float]] = []
        # The row that is being written, and the file's size before and after it.
        self._unfinished: tuple[tuple[Row, float], int, int] | None = None
        self._path: pathlib.Path | None = None
        # Size of the file after its last row; None if it has no row of this object.
        self.size: int | None = None

    @property
    def waiting(self) -> int:
        """Number of rows that are not yet on the disk."""
        return len(self._waiting)

    @property
    def next_step(self) -> int:
        """Step of the first row that waits."""
        return self._waiting[0][0]["step"]

    def add(self, row: Row) -> None:
        """Let a row wait for the next `flush`."""
        self._waiting.append((row, time.time()))

    def was_removed(self, path: pathlib.Path) -> bool:
        """Whether the file had rows of this object and has been removed or emptied."""
        return bool(self.size and path == self._path) and not (
            path.exists() and path.stat().st_size
        )

    def forget(self) -> None:
        """Drop the rows that wait."""
        self._waiting.clear()

    def flush(self, path: pathlib.Path) -> None:
        """Write the rows that wait; they are on the disk when this returns.

        Raises:
            OSError: If a row can't be written. It and the rows after it keep waiting.
        """
        if not self._waiting:
            return
        if path != self._path:
            self._path, self._unfinished, self.size = path, None, None
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while self._waiting:
                self._append(file, self._waiting[0])
                del self._waiting[0]
        finally:
            os.close(file)

    def _append(self, file: int, entry: tuple[Row, float]) -> None:
        """Append a row unless a write that was interrupted had already done so."""
        size = os.fstat(file).st_size
        if self._unfinished is not None and self._unfinished[0] is entry:
            _, begin, end = self._unfinished
            if size == end:
                self.size = size
                return
            if size > begin:
                os.ftruncate(file, begin)
                size = begin
        record = self._encode(*entry)
        if not size:
            record = self._header() + record
        self._unfinished = (entry, size, size + len(record))
        try:
            written = 0
            while written < len(record):
                written += os.write(file, record[written:])
        except BaseException:
            os.ftruncate(file, size)
            raise
        self.size = size + len(record)


def csv_file(columns: Sequence[str]) -> RowFile:
    """A CSV file with these columns."""
    return RowFile(
        lambda: csv_line(columns), lambda row, _: csv_line([row[name] for name in columns])
    )


def csv_line(values: Sequence[Any]) -> bytes:
    """One line of a CSV file, with its end."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()


def event_file(
    encode: Callable[[Row], summary_pb2.Summary],
    header: Callable[[], summary_pb2.Summary | None] = lambda: None,
) -> RowFile:
    """A file of TensorBoard events, one a row.

    The package writes the records itself: the summary writers of TensorFlow obey the caller's
    `tf.summary.record_if` and lose events if the disk is full.

    Args:
        encode: Function of a row that returns its summary. The row has at least a ``step``.
        header: Function that returns the summary with which a new file begins, or None.
    """

    def begin() -> bytes:
        first = _event(wall_time=time.time(), file_version="brain.Event:2")
        summary = header()
        if summary is None:
            return first
        return first + _event(wall_time=time.time(), step=0, summary=summary)

    def event(row: Row, seconds: float) -> bytes:
        return _event(wall_time=seconds, step=int(row["step"]), summary=encode(row))

    return RowFile(begin, event)


def _event(**fields: Any) -> bytes:
    record = io.BytesIO()
    record_writer.RecordWriter(record).write(event_pb2.Event(**fields).SerializeToString())
    return record.getvalue()


def resume_csv(path: pathlib.Path, columns: Sequence[str], step: int) -> bool:
    """Whether a CSV file has these columns and ends before a step, so that it can be continued.

    A file that can be continued is repaired: if its process died while it wrote, the incomplete
    last line is removed, with a warning that quotes it.
    """
    try:
        with path.open("r+b") as file:
            content = file.read()
            good = _continued_size(content, columns, step)
            if good is None:
                return False
            if good < len(content):
                file.truncate(good)
                warnings.warn(
                    f"The last line of {path} was incomplete and has been removed: "
                    f"{content[good:].decode(errors='replace')!r}",
                    stacklevel=2,
                )
    except OSError:
        return False
    return True


def _continued_size(content: bytes, columns: Sequence[str], step: int) -> int | None:
    """Size of the complete lines of a CSV file that ends before a step; None for other files."""
    header = csv_line(columns)
    if header.startswith(content):
        return len(content) if content == header else 0
    lines = content.splitlines(keepends=True)
    if lines[0].rstrip() != header.rstrip():
        return None
    if not lines[-1].endswith(b"\n") or lines[-1].count(b",") != header.count(b","):
        lines.pop()
    if len(lines) > 1:
        try:
            if int(lines[-1].split(b",")[columns.index("step")]) >= step:
                return None
        except (IndexError, ValueError):
            return None
    return sum(map(len, lines))
