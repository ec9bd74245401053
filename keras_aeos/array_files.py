"""Files of named arrays: written whole or not at all, read without pickle and within bounds.

A file is a ``.npz`` archive, which `numpy.load` reads as well. It may hold a text too.
"""

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_TEXT = "text"
# Boolean, signed and unsigned, real and complex: a number is all that is read.
_KINDS = "biufc"
# Bytes in which a member begins at most; NumPy writes about a hundred.
_HEADER = 10_000
_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], text: str = "") -> None:
    """Write arrays, and a text if there is one.

    The file is complete on the disk, under another name, before it takes the place of an earlier
    one. If anything fails, that one stays.

    Raises:
        OSError: If it can't be written.
        ValueError: If an entry is not made of numbers.
    """
    whole(path, lambda file: _write(file, arrays, text))


def plain(array: np.ndarray) -> np.ndarray:
    """An array of numbers that NumPy's files know: bfloat16 and its kin as unsigned integers."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def typed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Inverse of `plain`.

    Raises:
        TypeError: If the array is not of this type.
    """
    if plain(np.zeros(1, dtype)).dtype != array.dtype:
        raise TypeError(f"Expected an array of {dtype}. Received: one of {array.dtype}")
    return array.view(dtype)


def whole(path: pathlib.Path, write_to: Callable[[Any], Any]) -> None:
    """Write a file under another name, and let it take its place when it is complete on the disk.

    Args:
        path: The file.
        write_to: Function that writes its content to a file that is open.

    Raises:
        OSError: If it can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        try:
            write_to(_Output(file))
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(part, path)
    except Exception:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: pathlib.Path) -> None:
    """Let the new name of a file be on the disk too."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Output(io.RawIOBase):
    """A file that is written to the end of what it is given, or fails."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest):
            rest = rest[os.write(self._file, rest) :]
        return size


def _write(file: Any, arrays: Mapping[str, np.ndarray], text: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"Only numbers are written. Received: {name!r} of dtype {array.dtype}")
    with zipfile.ZipFile(file, "w") as archive:
        if text:
            archive.writestr(_TEXT, text)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file, read-only, and its text.

    The file is a list of numbers and no more: nothing in it is executed. It says how large its
    arrays are; what exceeds the size of the file itself is refused before memory is taken.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is damaged or of another kind.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_sizes(members, os.fstat(file.fileno()).st_size)
            text = archive.read(_TEXT).decode() if _TEXT in archive.namelist() else ""
            arrays = {
                info.filename.removesuffix(".npy"): _array(archive.read(info))
                for info in members
                if info.filename != _TEXT
            }
    except (EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays, text


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """Check that the members are not compressed, and no larger together than the file."""
    stored = all(info.compress_type == zipfile.ZIP_STORED for info in members)
    if not stored or sum(info.file_size for info in members) > size:
        raise ValueError("its arrays are compressed, or larger than the file")


def _array(member: bytes) -> np.ndarray:
    """The array of the bytes of a member."""
    stream = io.BytesIO(member)
    read_header = _HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError("it has an array of an unknown version")
    try:
        shape, by_columns, dtype = read_header(stream, max_header_size=_HEADER)
    except Exception as error:  # NumPy parses it as Python, with errors of several types
        raise ValueError(f"it has an array without a header: {error}") from error
    begin = stream.tell()
    if dtype.kind not in _KINDS or min(shape, default=0) < 0:
        raise ValueError(f"it has an array of shape {shape} and dtype {dtype}, not of numbers")
    if math.prod(shape) * dtype.itemsize != len(member) - begin:
        raise ValueError(f"it has an array that is not of its shape {shape}")
    values = np.frombuffer(member, dtype, offset=begin)
    return values.reshape(shape, order="F" if by_columns else "C")
