"""The peak memory of a process is its own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from tools.benchmarking import memory


def test_peak_leaves_out_the_process_that_starts_another():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        held = np.ones(2**28)  # 2 GiB
        of_another = pool.submit(memory._peak).result()
    assert 100 < of_another < 1500 < held.nbytes / 2**20 < memory._peak()
