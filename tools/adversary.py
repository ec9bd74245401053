"""Count how often the eigensolvers miss, on random operators that are made to mislead.

    python tools/adversary.py [--cases 1000]

prints miss rates and products of cold and warm solves; tools/benchmarking/misses.py describes the
operators.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking import misses


def main() -> None:
    """Print the table of all kinds of solves."""
    parser = argparse.ArgumentParser(
        prog="python tools/adversary.py",
        description=misses.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cases", type=int, default=1000, help="random cases of each kind; default: 1000"
    )
    misses.print_table(parser.parse_args().cases)


if __name__ == "__main__":
    main()
