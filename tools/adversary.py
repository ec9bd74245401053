"""Count how often the eigensolvers miss.

    python tools/adversary.py [--cases 1000]

prints miss rates and products of cold and warm solves, on random operators that are made to
mislead; tools/benchmarking/misses.py describes them.

    python tools/adversary.py --trainings

prints the same of warm solves along trainings of small networks, which
tools/benchmarking/trainings.py describes.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking import misses, trainings


def main() -> None:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python tools/adversary.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--cases", type=int, default=1000, help="random cases of each kind; default: 1000"
    )
    what.add_argument(
        "--trainings", action="store_true", help="solve along trainings instead of random cases"
    )
    arguments = parser.parse_args()
    if arguments.trainings:
        trainings.print_table()
    else:
        misses.print_table(arguments.cases)


if __name__ == "__main__":
    main()
