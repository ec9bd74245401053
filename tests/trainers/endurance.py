"""What a run leaves behind, without what depends on the clock; and runs that are killed at random.

    python -m tests.trainers.endurance SEED NUM_KILLS DIRECTORY ARGUMENT ...

runs ``python -m trainers ARGUMENT ... output_dir=DIRECTORY/whole`` to its end, then the same in
``DIRECTORY/killed``, where SIGKILL ends it NUM_KILLS times: one start of four at a random moment of
its first part, the others at a random moment after their first checkpoint, so that the run gets on
however slow a start is. Each start is a fork, so that TensorFlow is imported once.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import h5py
import pandas as pd

# The modules of a run, imported before the first fork. Nothing of TensorFlow is used before it.
from tests.callbacks.log_cases import events
from trainers import __main__, run_directory, training

TIMES = ["seconds", "overhead"]


def results(directory):
    """All numbers of a run that do not depend on the clock."""
    found: dict = {}
    with h5py.File(directory / "final.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tolist()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    for path in sorted(directory.glob("*.csv")):
        table = pd.read_csv(path, dtype=str)
        found[path.name] = table.drop(columns=TIMES, errors="ignore").to_csv()
    for run in ("measured", "threshold", "test"):
        scalars = events(directory, run)
        found[f"tensorboard/{run}"] = {
            tag: [(step, repr(value)) for step, value in values]
            for tag, values in scalars.items()
            if tag.rpartition("/")[2] not in TIMES
        }
    moments = directory / "second_moments.npz"
    found["second moments"] = moments.read_bytes() if moments.exists() else None
    return found


def measured_in(directory):
    """The measured values of a run, without times and what a solve says of itself."""
    table = pd.read_csv(directory / run_directory.METRICS)
    return table.loc[:, :"residual"].drop(columns=["seconds", "residual"], errors="ignore")


def started(arguments):
    """Process number of a run that has just been started."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 70
        try:
            __main__.main(arguments)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return process


def ended(process):
    """Exit status of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def checkpoints(directory):
    """Names of the files of a run from which it may go on."""
    return {path.name for path in (directory / run_directory.CHECKPOINTS).glob("*")}


def wait_for(condition, process):
    """Wait until a condition holds or a process has ended, without taking its exit status."""
    while not condition():
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)


def main(seed, num_kills, directory, arguments):
    """Run to the end, and with kills; the exit status is 0 if both have ended well."""
    assert training
    began = time.monotonic()
    if ended(started([*arguments, f"output_dir={directory / 'whole'}"])) != 0:
        return 1
    seconds = time.monotonic() - began
    moments = random.Random(seed)  # noqa: S311
    killed = directory / "killed"
    for number in range(num_kills):
        before = checkpoints(killed)
        process = started([*arguments, f"output_dir={killed}"])
        if number % 4 == 0:
            time.sleep(moments.uniform(0.02, 0.35) * seconds)
        else:
            wait_for(lambda known=before: not checkpoints(killed) <= known, process)
            time.sleep(moments.uniform(0.0, 0.05) * seconds)
        os.kill(process, signal.SIGKILL)
        if ended(process) == 0:
            return 0  # it came to its end before
    return ended(started([*arguments, f"output_dir={killed}"]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
