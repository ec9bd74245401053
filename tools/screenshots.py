"""Look at TensorBoard or a report in a browser without a window: Chromium.

    python tools/screenshots.py runs/quickstart/tensorboard docs/figures/tensorboard_run.png
    python tools/screenshots.py report.html report.png --width 390 --dark

A directory is opened in TensorBoard, `--page` names one of its pages; a file is opened as it is.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 120
# Time that passes on the page before it is read.
_MILLISECONDS = 20_000


def browser() -> str | None:
    """The command of Chromium; None if it is not installed."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, found), None)


@contextmanager
def tensorboard(directory: Path) -> Iterator[str]:
    """Serve a directory with TensorBoard within this context; yield the address.

    Raises:
        RuntimeError: TensorBoard ends instead of serving.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(directory), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stderr is not None  # noqa: S101 - for the type checker
            said = []
            for line in process.stderr:
                said.append(line)
                address = re.search(r"http://localhost:\d+/", line)
                if address:
                    yield address.group()
                    return
            raise RuntimeError(f"TensorBoard did not start: {''.join(said)}")
        finally:
            process.terminate()


def dom(url: str, width: int = 1400, height: int = 2000) -> str:
    """The elements of a page after its scripts have run, as HTML."""
    return _run(url, width, height, ["--dump-dom"])


def screenshot(url: str, path: Path, width: int = 1400, height: int = 900, *dark: str) -> None:
    """Write a picture of a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _run(url, width, height, [f"--screenshot={path.resolve()}", *dark])
    if not path.exists():
        raise RuntimeError(f"the browser took no picture of {url}")


def _run(url: str, width: int, height: int, options: list[str]) -> str:
    command = browser()
    if command is None:
        raise RuntimeError("Chromium is needed; install the package chromium")
    with tempfile.TemporaryDirectory() as profile:
        result = subprocess.run(  # noqa: S603 - fixed arguments
            [
                command,
                *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"),
                f"--window-size={width},{height}",
                f"--virtual-time-budget={_MILLISECONDS}",
                *options,
                url,
            ],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    return result.stdout


def main(arguments: Sequence[str]) -> int:
    """Take the picture that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/screenshots.py", description="Take a picture of TensorBoard or a page."
    )
    parser.add_argument("what", type=Path, help="a directory of logs, or an HTML file")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument(
        "--page", default="timeseries", help="TensorBoard's page; default: %(default)s"
    )
    parser.add_argument("--width", type=int, default=1400, help="in pixels; default: %(default)s")
    parser.add_argument("--height", type=int, default=900, help="in pixels; default: %(default)s")
    parser.add_argument("--dark", action="store_true", help="ask the page for dark colours")
    options = parser.parse_args(arguments)
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if options.dark else []
    try:
        if options.what.is_dir():
            with tensorboard(options.what) as url:
                screenshot(
                    f"{url}#{options.page}", options.picture, options.width, options.height, *dark
                )
        else:
            url = options.what.resolve().as_uri()
            screenshot(url, options.picture, options.width, options.height, *dark)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
