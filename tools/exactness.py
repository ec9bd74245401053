"""Measure the errors of stock second derivatives, and of those that a measurement uses.

    python tools/exactness.py

prints the tables of docs/exactness.md: for layers, the error of a Hessian-vector product by two
gradient tapes; for small networks with normalisation, the largest eigenvalue. Stock TensorFlow and
a measurement are compared with central differences of the gradient.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking import second_derivatives


def main() -> None:
    """Print both tables."""
    argparse.ArgumentParser(
        prog="python tools/exactness.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    second_derivatives.print_tables()


if __name__ == "__main__":
    main()
