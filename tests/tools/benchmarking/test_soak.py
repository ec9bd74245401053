"""What a process holds, as the long training counts it."""

import os
import threading

import numpy as np
import pytest

from tools.benchmarking import soak


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_memory_handles_and_threads_are_counted(tmp_path):
    memory, handles, threads = soak.held()
    ends = threading.Event()
    waiting = threading.Thread(target=ends.wait)
    with (tmp_path / "file").open("w"):
        waiting.start()
        kept = np.ones(2**24)  # 128 MB
        later = soak.held()
    ends.set()
    waiting.join()
    assert later[0] - memory == pytest.approx(kept.nbytes / 2**20, rel=0.2)
    assert later[1:] == (handles + 1, threads + 1)
    assert soak.held()[1] == handles
