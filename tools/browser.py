"""Chromium without a window, driven by its DevTools protocol over a pipe."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Descriptors at which Chromium reads commands and writes answers.
_COMMANDS, _ANSWERS = 3, 4
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
_SECONDS = 60.0


def command() -> str | None:
    """The command of Chromium; None if it is not installed."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


class Page:
    """A page in the browser.

    Args:
        commands: Descriptor to which commands are written.
        answers: Descriptor from which answers are read.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Choose the size in pixels, and light or dark."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str, until: str = "document.readyState === 'complete'") -> None:
        """Open an address, and wait until a JavaScript expression is true there.

        Raises:
            RuntimeError: It is not within a minute.
        """
        self._ask("Page.navigate", url=url)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(until):
            if time.monotonic() > end:
                raise RuntimeError(f"the page did not come to the state: {until}")
            time.sleep(0.2)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; None if it fails."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a picture of what is visible, as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        answer, self._rest = self._rest.split(b"\0", 1)
        return json.loads(answer)


@contextmanager
def page(width: int = 1400, height: int = 900, dark: bool = False) -> Iterator[Page]:
    """A page in a browser that ends with this context.

    Raises:
        RuntimeError: The browser is not installed.
    """
    program = command()
    if program is None:
        raise RuntimeError("Chromium is needed; install the package chromium")
    # Above the two descriptors, which the child puts them on.
    ends = (*os.pipe(), *os.pipe())
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
    for end in ends:
        os.close(end)
    theirs_in, ours_out, ours_in, theirs_out = pipes

    def connect() -> None:
        os.dup2(theirs_in, _COMMANDS)
        os.dup2(theirs_out, _ANSWERS)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments
            [program, *_FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=connect,
            pass_fds=(_COMMANDS, _ANSWERS),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            opened = Page(ours_out, ours_in)
            opened.look(width, height, dark)
            yield opened
        finally:
            process.terminate()
            process.wait()
            os.close(ours_in)
            os.close(ours_out)
