"""A directory that one writer has for itself, until it releases it or its process ends."""

import contextlib
import fcntl
import os
import pathlib
import re
import socket
import weakref
from collections.abc import Callable
from typing import ClassVar

_LOCK = ".keras_aeos.lock"
_LONGEST_NAME = 500


class Claim:
    """A directory that no other `Claim` holds, in this process or another.

    The claim is a lock on a file in the directory, which names the process. The system releases it
    when the process dies. Directories that are made for the claim are removed on release if they
    are empty. On a file system without locks the name alone counts, if its process runs on this
    host.

    Args:
        directory: Absolute path. It is made, with its parents, if it doesn't exist.
        new: Boolean. Whether the directory must not exist yet. False by default.
        in_use: Function that says whether the holder still writes, for another claim of this
            process; if it doesn't, that claim releases the directory. None (default) for always.
        lock: String. Name of the file; claims with different names don't see each other.

    Attributes:
        directory: As given.
        left_by: The process that died without releasing the directory, in words; empty if none.

    Raises:
        Taken: If the directory is held by another claim or, with `new`, exists. Its text names the
            process that holds it, if that is known.
        OSError: If the directory can't be made or written to.
    """

    _held: ClassVar[weakref.WeakSet["Claim"]] = weakref.WeakSet()

    def __init__(
        self,
        directory: pathlib.Path,
        new: bool = False,
        in_use: Callable[[], bool] | None = None,
        lock: str = _LOCK,
    ) -> None:
        self.directory = directory
        self._path = directory / lock
        self._in_use = in_use
        self._release_abandoned()
        made: list[pathlib.Path] = []
        try:
            _make(directory, new, made)
            self._file, self.left_by = _locked(self._path)
        except BaseException:
            _remove(made)
            raise
        # At the latest when the object is deleted.
        self.release = weakref.finalize(self, _release, self._file, self._path, made, os.getpid())
        self._held.add(self)

    def _release_abandoned(self) -> None:
        """Release the claims of this directory whose holders have stopped without saying so."""
        for claim in list(self._held):
            same = claim._path == self._path and claim.release.alive
            if same and claim._in_use is not None and not claim._in_use():
                claim.release()

    def holds(self) -> bool:
        """Whether the claim has not been released, nor its directory removed."""
        return self.release.alive and _is_at(self._file, self._path)


class Taken(Exception):  # noqa: N818 - a state of a directory, not an error
    """A directory is held by another `Claim`."""


def _make(directory: pathlib.Path, new: bool, made: list[pathlib.Path]) -> None:
    """Make a directory, and append those that were missing to `made`, the outermost first."""
    for path in (*reversed(directory.parents), directory):
        if not path.is_dir():
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise
            else:
                made.append(path)
    if new and directory not in made:
        raise Taken


def this_process() -> str:
    """Host and number of this process, as a lock names them."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _locked(path: pathlib.Path) -> tuple[int, str]:
    """Descriptor of a file that is locked and names this process, and the process it named."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            holder = _locked_by(file)
            if holder is not None:
                raise Taken(holder)
            # The last holder may have removed the file after it was opened here.
            if _is_at(file, path):
                left_by = _named(file)
                with contextlib.suppress(OSError):  # the disk is full
                    os.ftruncate(file, 0)
                    os.pwrite(file, this_process().encode(), 0)
                return file, left_by
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _locked_by(file: int) -> str | None:
    """Lock a file; if another process has it, the name of that one, which may be empty."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(file)
    except OSError:
        named = _named(file)
        return named if named != this_process() and _runs_here(named) else None
    return None


def _named(file: int) -> str:
    """The process that a lock names; empty if it names none."""
    return os.pread(file, _LONGEST_NAME, 0).decode(errors="replace")


def _runs_here(named: str) -> bool:
    """Whether a process that a lock names runs on this host."""
    match = re.fullmatch(r"process (\d{1,9}) on (.*)", named, re.DOTALL)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _is_at(file: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _release(file: int, path: pathlib.Path, made: list[pathlib.Path], process: int) -> None:
    # A process that was forked off has the same lock open. It isn't its to release.
    if os.getpid() == process:
        if _is_at(file, path):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        _remove(made)
    os.close(file)


def _remove(made: list[pathlib.Path]) -> None:
    """Remove the directories that are empty."""
    with contextlib.suppress(OSError):
        for path in reversed(made):
            path.rmdir()
