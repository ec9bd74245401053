"""Measure the errors of stock second derivatives, and of those that a measurement uses.

    python tools/exactness.py

prints the tables of docs/exactness.md: for layers, the error of a Hessian-vector product by two
gradient tapes; for small networks with normalisation, the largest eigenvalue. Stock TensorFlow and
a measurement are compared with central differences of the gradient.

    python tools/exactness.py operations > tests/curvature/operations.csv

prints a class for every operation of the installed TensorFlow, such as "exact" or "missing".
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking import operations, second_derivatives


def main() -> None:
    """Print both tables, or the classes of operations."""
    parser = argparse.ArgumentParser(
        prog="python tools/exactness.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("tables", "operations"), default="tables")
    if parser.parse_args().what == "operations":
        sys.stdout.write(operations.table())
    else:
        second_derivatives.print_tables()


if __name__ == "__main__":
    main()
