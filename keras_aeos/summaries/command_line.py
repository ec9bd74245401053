"""``keras-aeos summary RUN...`` and ``keras-aeos report RUN...``: what needs no checkout."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_aeos.summaries import table
from keras_aeos.summaries.runs import RunError, read_runs

_EXAMPLES = """\
examples:
  keras-aeos summary logs/aeos/20260101-120000
  keras-aeos report runs/fig01 -o report.html

RUN is a directory that a monitor or a trainer has written, a directory of such, or a zip archive of
runs. `keras-aeos COMMAND --help` lists the options of a command.
"""
_RUNS = "a run, a directory of runs, or a zip archive of runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 2 and one line at what the user can fix."""
    options = parser().parse_args(arguments)
    try:
        options.function(options)
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; `function` of its result runs the command."""
    parser = argparse.ArgumentParser(
        prog="keras-aeos",
        description="Summaries of trainings at the edge of stability.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = commands.add_parser(
        "summary",
        help="print the numbers of runs, and draw a page of each",
        description="Print the numbers of runs, and draw a page of each.",
        epilog="example: keras-aeos summary logs/aeos/20260101-120000 --out pages",
    )
    summary.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=_RUNS)
    summary.add_argument(
        "--out", type=Path, metavar="DIR", help="write a page of each run there, as PNG and PDF"
    )
    summary.set_defaults(function=_summary)
    report = commands.add_parser(
        "report",
        help="write one HTML page on a run or a sweep",
        description="Write one self-contained HTML page on a run or a sweep.",
        epilog="example: keras-aeos report runs/fig01 -o report.html",
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=_RUNS)
    report.add_argument(
        *("-o", "--out"),
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page to write; default: report.html",
    )
    report.set_defaults(function=_report)
    return parser


def _summary(options: argparse.Namespace) -> None:
    runs = read_runs(options.runs)
    print(f"{runs[0].name}\n{table.small_table(runs[0])}" if len(runs) == 1 else table.table(runs))
    if options.out is None:
        return
    _check_installed("matplotlib")
    from keras_aeos.summaries import picture

    for path in picture.save_all(runs, options.out):
        print(path)


def _report(options: argparse.Namespace) -> None:
    runs = read_runs(options.runs)
    _check_installed("bokeh")
    from keras_aeos.summaries import page

    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page.html(runs), encoding="utf-8")
    print(options.out)


def _check_installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise RunError(f"{name} is needed; install it with pip install '.[report]' in the checkout")
