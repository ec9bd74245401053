"""The signals that end a process from outside, held back while a run trains."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; its text is one line that says where it stands.

    Args:
        number: Number of the signal.
        where: Where the run stands, in words; empty if it had not begun.
    """

    def __init__(self, number: int, where: str = "") -> None:
        self.number = number
        name = signal.Signals(number).name
        super().__init__(f"interrupted by {name}{' ' if where else ''}{where}")

    @property
    def status(self) -> int:
        """The status with which the process ends, 143 for SIGTERM and 130 for SIGINT."""
        return 128 + self.number


class Signals:
    """What has been received; `signals` is the only one.

    Attributes:
        pending: Number of the signal that has been received; None if there was none.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._handled = self._held_back = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within this context, a first signal raises `Interrupted`; a second one ends the process.

        Python handles signals in the main thread alone; elsewhere the context changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._handled = True
        try:
            yield
        finally:
            self._handled = False
            for number, handler in before.items():
                signal.signal(number, handler)
            self.pending = None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Within this context, a first signal only becomes `pending`."""
        # TensorFlow has taken SIGTERM for itself if several processes train together.
        for number in SIGNALS if self._handled else ():
            signal.signal(number, self._handle)
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            os._exit(128 + number)
        self.pending = number
        if not self._held_back:
            raise Interrupted(number)


signals = Signals()
