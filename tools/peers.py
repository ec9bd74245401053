"""Compare keras_aeos with its peers on the top eigenvalue of one Hessian.

    pip install -e ".[benchmark]"
    python tools/prepare_data.py cifar10
    python tools/peers.py

All contenders get the same network with the same weights, the same data and one thread. The
program prints one table for each network. It leaves out packages that are not installed, and says
so. The columns are

- error: of the eigenvalue, relative to a reference in float64; the largest over the repeats.
- products: Hessian-vector products over all examples.
- gradients: time of a solve, in gradients of the same framework.
- time: of a solve, relative to `keras_aeos.top_eigenpairs`.
- first call: extra time of the first solve, in seconds: tracing and compilation. PyTorch has none.
- certificate: what the contender says about the error of its own answer.

Each repeat has its own random start, which contenders share where they accept one. All columns but
the error are medians. The settings called "tuned" are the cheapest ones that reach a relative
error of 1e-3 from all of these starts, found on the tridiagonal matrices of Lanczos runs from the
same starts. Choosing them requires the answer, and they certify nothing.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking.comparison import compare
from tools.benchmarking.problems import BUILDERS, prepare
from trainers.errors import UserError

# More threads than free cores would measure how the frameworks wait for each other's threads.
NUM_THREADS = 1
PEERS = ("scipy", "torch", "pyhessian", "hessian_eigenthings", "curvlinops", "jax")


def unavailable(packages: Iterable[str]) -> dict[str, str]:
    """Find packages that cannot be imported, and Python's reason for each."""
    reasons = {}
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            reasons[package] = f"{type(error).__name__}: {error}"
    return reasons


def start_jax() -> None:
    """Let JAX create its threads, as many as it sees processors: no setting limits them."""
    import jax

    if not hasattr(os, "sched_setaffinity"):
        print("JAX uses as many threads as there are processors.")
        return
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(processors)[:NUM_THREADS])
    jax.devices()
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


def main() -> None:
    """Print one table for each network."""
    argparse.ArgumentParser(
        prog="python tools/peers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
    # PyHessian keeps gradients with their graph in the parameters, about which PyTorch warns.
    warnings.filterwarnings("ignore", "Using backward", UserWarning)
    # Triton, which PyTorch's GPU wheels depend on, crashes beside TensorFlow; nothing needs it.
    sys.modules["triton"] = None  # type: ignore[assignment]
    reasons = unavailable(PEERS)
    for package, reason in reasons.items():
        print(f"{package} is left out: {reason}")
    if "torch" not in reasons:
        import torch

        torch.set_num_threads(NUM_THREADS)
    if "jax" not in reasons:
        start_jax()
    try:
        for name in BUILDERS:
            compare(prepare(name), set(reasons))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
