"""Pack runs into an archive that tools/figures.py reads.

    python tools/pack_runs.py runs/fig02 docs/runs/fig02.zip

keeps `config.yaml`, `run.json` and the CSV files of each run. `python -m zipfile -e ARCHIVE DIR`
unpacks it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.plotting import archives
from trainers.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Pack the runs that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/pack_runs.py",
        description="Pack runs into an archive that tools/figures.py reads.",
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="directory of runs")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="zip file to write")
    options = parser.parse_args(arguments)
    try:
        num_runs = archives.pack(options.runs, options.archive)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"runs in {options.archive}: {num_runs}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
