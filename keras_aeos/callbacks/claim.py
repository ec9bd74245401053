"""A directory that one writer has for itself, until it releases it or its process ends."""

import contextlib
import fcntl
import os
import pathlib
import weakref
from collections.abc import Callable
from typing import ClassVar

_LOCK = ".keras_aeos.lock"


class Claim:
    """A directory that no other `Claim` holds, in this process or another.

    The claim is a lock on a file in the directory. The system releases it when the process dies.
    Directories that are made for the claim are removed on release if they are empty. On a file
    system without locks the directory is taken to be free.

    Args:
        directory: Absolute path. It is made, with its parents, if it doesn't exist.
        new: Boolean. Whether the directory must not exist yet. False by default.
        in_use: Function that says whether the holder still writes, for another claim of this
            process; if it doesn't, that claim releases the directory. None (default) for always.

    Raises:
        Taken: If the directory is held by another claim or, with `new`, exists.
        OSError: If the directory can't be made or written to.
    """

    _held: ClassVar[weakref.WeakSet["Claim"]] = weakref.WeakSet()

    def __init__(
        self,
        directory: pathlib.Path,
        new: bool = False,
        in_use: Callable[[], bool] | None = None,
    ) -> None:
        self.directory = directory
        self._in_use = in_use
        self._release_abandoned()
        made: list[pathlib.Path] = []
        try:
            _make(directory, new, made)
            self._file = _locked(directory / _LOCK)
        except BaseException:
            _remove(made)
            raise
        # At the latest when the object is deleted.
        self.release = weakref.finalize(
            self, _release, self._file, directory / _LOCK, made, os.getpid()
        )
        self._held.add(self)

    def _release_abandoned(self) -> None:
        """Release the claims of this directory whose holders have stopped without saying so."""
        for claim in list(self._held):
            same = claim.directory == self.directory and claim.release.alive
            if same and claim._in_use is not None and not claim._in_use():
                claim.release()

    def holds(self) -> bool:
        """Whether the claim has not been released, nor its directory removed."""
        return self.release.alive and _is_at(self._file, self.directory / _LOCK)


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


def _locked(path: pathlib.Path) -> int:
    """Descriptor of a file that is locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise Taken from None
        except OSError:
            return file
        # The last holder may have removed the file after it was opened here.
        if _is_at(file, path):
            return file
        os.close(file)


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
