"""Several processes measure together, in a training loop of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.strategies import free_ports

ROOT = Path(__file__).resolve().parents[2]
# Of the order of the rounding of a product, or of what a solve to 1e-4 leaves open.
LOOSE = ("residual", "error_bound", "upper_bound", "spectral_gap", "smallest_eigenvalue")


def start(index=None, ports=()):
    """A worker of a cluster, or one that is alone."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    if ports:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    command = [sys.executable, "-m", "tests.callbacks.worker"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs(processes):
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err[-3000:]
            found.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return found


@pytest.mark.slow
def test_workers_report_the_rows_of_one_process_with_all_examples():
    ports = free_ports(2)
    first, second = outputs([start(index, ports) for index in range(2)])
    (alone,) = outputs([start()])
    assert first["rows"] == second["rows"]
    assert first["automatic"] == second["automatic"]
    assert first["automatic"][0] == 8
    assert (first["written"], second["written"]) == (True, False)
    assert list(first["rows"]) == list(alone["rows"])
    for column, values in first["rows"].items():
        rtol = 0.1 if column in LOOSE else 1e-5
        np.testing.assert_allclose(values, alone["rows"][column], rtol=rtol, err_msg=column)
