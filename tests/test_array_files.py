"""Files of arrays: whole or not at all, and nothing in them is executed or larger than the file."""

import errno
import io
import os
import pickle
import zipfile
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from keras_aeos import array_files

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "by/columns": np.asfortranarray(np.arange(6, dtype="int32").reshape(2, 3)),
    "empty": np.zeros((0, 3), "float32"),
    "number": np.array(7, "uint8"),
    "flags": np.array([True, False]),
}
LATER = {"matrix": np.ones((2, 3)), "other": np.zeros(5)}


def same(read, arrays):
    return read.keys() == arrays.keys() and all(
        np.array_equal(read[k], v) and read[k].dtype == v.dtype and read[k].shape == v.shape
        for k, v in arrays.items()
    )


def test_file_holds_what_was_written(tmp_path):
    path = tmp_path / "state.npz"
    array_files.write(path, ARRAYS, "a text with é")
    arrays, text = array_files.read(path)
    assert same(arrays, ARRAYS)
    assert text == "a text with é"
    with np.load(path) as file:
        assert np.array_equal(file["matrix"], ARRAYS["matrix"])
    arrays_of_numpy: dict[str, Any] = ARRAYS
    np.savez(path, **arrays_of_numpy)
    assert same(array_files.read(path)[0], ARRAYS)
    assert os.listdir(tmp_path) == ["state.npz"]


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "bool"])
def test_types_of_half_precision_are_kept(dtype):
    array = np.array([[0.5, 1.0]]).astype(dtype)
    again = array_files.typed(array_files.plain(array), dtype)
    assert again.dtype == array.dtype
    assert np.array_equal(again.astype("float64"), array.astype("float64"))
    with pytest.raises(TypeError, match="Received"):
        array_files.typed(array, "int16")


class Fault(BaseException):
    """As a kill, it is caught by nobody."""


def failing(monkeypatch, number, error):
    """Let one of the calls that change the disk fail; of what it writes half is written."""
    calls = [0]

    def patched(name):
        original = getattr(os, name)

        def call(*arguments):
            calls[0] += 1
            if calls[0] == number:
                if name == "write":
                    file, data = arguments
                    original(file, data[: len(data) // 2])
                raise error
            return original(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync", "replace"):
        patched(name)
    return calls


def write_twice(path):
    for _ in range(2):
        array_files.write(path, LATER, "second")


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, Fault()], ids=["full", "killed"])
def test_file_is_whole_whichever_write_fails(tmp_path, error):
    path = tmp_path / "state.npz"
    with pytest.MonkeyPatch.context() as patch:
        calls = failing(patch, 0, error)
        array_files.write(path, ARRAYS, "first")
    count = calls[0]
    assert count > 20
    for number in range(1, count + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, number, error)
            with pytest.raises(type(error)):
                write_twice(path)
        arrays, text = array_files.read(path)
        assert (text, same(arrays, ARRAYS)) == ("first", True) or (
            (text, same(arrays, LATER)) == ("second", True)
        )
        array_files.write(path, ARRAYS, "first")
    assert os.listdir(tmp_path) == ["state.npz"]


def test_part_of_a_file_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    array_files.write(path, ARRAYS, "text")
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"."):
            array_files.read(path)
    for place in range(30, len(content) // 2, 7):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            arrays, _ = array_files.read(path)
        except ValueError:
            continue
        assert same(arrays, ARRAYS)


class Evil:
    ran: ClassVar[list[int]] = []

    def __reduce__(self):
        return self.ran.append, (1,)


def member(shape, descr="<f8", data=b"", version=(1, 0)):
    """An array whose header says what it likes."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    write = {(1, 0): np.lib.format.write_array_header_1_0}.get(
        version, np.lib.format.write_array_header_2_0
    )
    write(file, header)
    return file.getvalue() + data


HUGE = 2**40
UNTRUSTED = {
    "a large shape": ("a.npy", member((HUGE,)), zipfile.ZIP_STORED),
    "a shape beyond integers": ("a.npy", member((HUGE, HUGE, HUGE)), zipfile.ZIP_STORED),
    "a negative shape": ("a.npy", member((-1,)), zipfile.ZIP_STORED),
    "fewer numbers": ("a.npy", member((3,), data=bytes(16)), zipfile.ZIP_STORED),
    "more numbers": ("a.npy", member((1,), data=bytes(16)), zipfile.ZIP_STORED),
    "objects": ("a.npy", member((1,), "|O", pickle.dumps([Evil()])), zipfile.ZIP_STORED),
    "strings": ("a.npy", member((1,), "<U4", bytes(16)), zipfile.ZIP_STORED),
    "records": ("a.npy", member((1,), [("x", "<f8")], bytes(8)), zipfile.ZIP_STORED),
    "zeros, compressed": (
        "a.npy",
        member((2**20,), data=bytes(2**23)),
        zipfile.ZIP_DEFLATED,
    ),
    "no array": ("a.npy", b"hello", zipfile.ZIP_STORED),
    "nothing": ("a.npy", b"", zipfile.ZIP_STORED),
    "code": ("a.npy", b"\x93NUMPY\x01\x00\x10\x00__import__('os')", zipfile.ZIP_STORED),
    "another version": ("a.npy", b"\x93NUMPY\x09\x00\x10\x00", zipfile.ZIP_STORED),
}


@pytest.mark.parametrize(("name", "content", "how"), UNTRUSTED.values(), ids=UNTRUSTED)
def test_untrusted_file_is_refused_before_memory_is_taken(tmp_path, name, content, how):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr(name, content)
    with pytest.raises(ValueError, match=r"."):
        array_files.read(path)
    assert Evil.ran == []


def test_only_numbers_are_written(tmp_path):
    with pytest.raises(ValueError, match="Received: 'a' of dtype object"):
        array_files.write(tmp_path / "a.npz", {"a": np.array([None])})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("header", ["{", "(" * 5000, "'", "{'descr': 1}"])
def test_header_that_numpy_cannot_parse_is_damage(tmp_path, header):
    text = (header + "\n").encode()
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "state.npz", "w") as file:
        file.writestr("a.npy", member)
    with pytest.raises(ValueError, match="without a header"):
        array_files.read(tmp_path / "state.npz")
