"""Runs of several real processes on this machine.

    python -m tests.trainers.several_workers DIRECTORY ARGUMENT ... [-- ARGUMENT ...] ...

runs ``python -m trainers ARGUMENT ...``, several of them one after the other. Workers other than
the first write into a temporary directory; here it is DIRECTORY, and it is kept.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

from tests.strategies import free_ports
from trainers import strategies
from trainers.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
NUM_SECONDS = 300


def start(number, arguments, other):
    """Start the workers of a run; `other` is where the others than the first write."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(number)]
    other.mkdir(exist_ok=True)
    started = []
    for index in range(number):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.trainers.several_workers", str(other), *arguments],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CONFIG": json.dumps(cluster)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
    return started


def ended(started):
    """Wait for the workers; their exit statuses, and what they printed on stderr."""
    try:
        printed = [worker.communicate(timeout=NUM_SECONDS)[1] for worker in started]
    finally:
        for worker in started:
            worker.kill()
    return [worker.returncode for worker in started], printed


@contextlib.contextmanager
def _kept():
    yield sys.argv[1]


if __name__ == "__main__":
    setattr(strategies, "tempfile", types.SimpleNamespace(TemporaryDirectory=_kept))  # noqa: B010
    for separated, command in itertools.groupby(sys.argv[2:], lambda argument: argument == "--"):
        if not separated:
            main(list(command))
