"""A process that computes what may fail, take too long or end the process."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Worker:
    """A process that calls functions; a new one takes its place when it ends or takes too long."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, function: Callable, *arguments: Any, limit: float | None = None) -> dict:
        """Call a function of a module in the process.

        Args:
            function: The function; its arguments and its result are pickled.
            arguments: Its arguments.
            limit: Seconds after which the process is stopped; None for no limit.

        Returns:
            `{"results": ...}`, or `{"error": ...}` with a line that says what happened.
        """
        if self._connection is None:
            spawn = multiprocessing.get_context("spawn")
            self._connection, other = spawn.Pipe()
            self._process = spawn.Process(target=_work, args=(other,))
            self._process.start()
            other.close()
        try:
            self._connection.send((function, arguments))
            if self._connection.poll(limit):
                return self._connection.recv()
            error = f"stopped after {limit:.0f} s"
        except (EOFError, OSError):
            self._process.join()
            error = f"the process ended with status {self._process.exitcode}"
        self.stop()
        return {"error": error}

    def stop(self) -> None:
        """End the process and those that it has started."""
        if self._connection is None:
            return
        self._connection.close()
        self._connection = None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group's leader yet
            self._process.kill()
        self._process.join()


def described(error: BaseException) -> str:
    """An error in one line, without the directories of this machine."""
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    return re.sub(r"(?<![\w.])~?(/[\w.+@-]+)+/", "", text)[:200]


def _work(connection: Connection) -> None:
    """Answer what `Worker.ask` asks, as the leader of a group of processes."""
    os.setsid()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            outcome = {"results": function(*arguments)}
        except Exception as error:  # of whatever kind
            outcome = {"error": described(error)}
        connection.send(outcome)
