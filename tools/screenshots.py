"""Take a picture of TensorBoard or of a report, in Chromium without a window.

    python tools/screenshots.py runs/quickstart/tensorboard docs/figures/tensorboard_run.png
    python tools/screenshots.py report.html report.png --width 390 --dark

A directory is opened in TensorBoard, `--page` names one of its pages; a file is opened as it is.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import browser

# Curves are drawn by other threads of the browser.
_SECONDS_TO_DRAW = 6.0


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


def main(arguments: Sequence[str]) -> int:
    """Take the picture that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/screenshots.py",
        description="Take a picture of TensorBoard or of a page.",
        epilog="example: python tools/screenshots.py runs/quickstart/tensorboard run.png",
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
    try:
        with contextlib.ExitStack() as stack:
            url = options.what.resolve().as_uri()
            if options.what.is_dir():
                served = stack.enter_context(tensorboard(options.what))
                url = f"{served}#{options.page}"
            page = stack.enter_context(
                browser.page(options.width, options.height, dark=options.dark)
            )
            page.open(url)
            time.sleep(_SECONDS_TO_DRAW)
            page.screenshot(options.picture)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
