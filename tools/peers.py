"""Compare keras_aeos with its peers on the top eigenvalue of one Hessian.

    pip install -e ".[benchmark]"
    python tools/prepare_data.py cifar10
    python tools/peers.py [NETWORK ...]

is short for `python tools/benchmark.py peers`. All contenders get the same network with the same
weights and data, on the first GPU or else on one core, in full float32. Each framework runs in a
process of its own; the processes take turns. Packages that are not installed are left out, and the
table says so. The columns are

- error: of the eigenvalue, relative to a reference in float64; the largest over the repeats.
- products: Hessian-vector products over all examples.
- gradients: time of a solve, in gradients of the same framework.
- time: of a solve, relative to `keras_aeos.top_eigenpairs`.
- first call: extra time of the first call, in seconds: tracing and compilation.
- certificate: what the contender says about the error of its own answer.

Each repeat has its own random start, which contenders share where they accept one. All columns but
the error are medians. The settings called "tuned" are the cheapest ones that reach a relative
error of 1e-3 from all of these starts, found on the tridiagonal matrices of Lanczos runs from the
same starts. Choosing them requires the answer, and they certify nothing.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import benchmark


def main() -> None:
    """Compare on each network."""
    from tools.benchmarking import page
    from tools.benchmarking.problems import BUILDERS

    parser = argparse.ArgumentParser(
        prog="python tools/peers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(BUILDERS))
    benchmark.measure("peers", parser.parse_args().networks, None)
    page.draw()


if __name__ == "__main__":
    main()
