"""Sweeps whose jobs run at the same time: on this machine, on a cluster, or with Ray.

Each job is a process of its own, ``python -m trainers ... --job NUMBER``, so that one that fails
takes no other with it, and any scheduler can start one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from trainers.errors import UserError
from trainers.signals import signals

Command = Sequence[str]
# TensorFlow reads it.
_THREADS = "TF_NUM_INTRAOP_THREADS"
# The status and the output of a command.
Result = tuple[int, str]


def launch(name: str, given: str, arguments: Sequence[str], num_jobs: int) -> bool:
    """Run the jobs of a sweep, and print what each of them says when it ends.

    Args:
        name: A key of `LAUNCHERS`.
        given: The settings of the launcher, a mapping in YAML.
        arguments: The command line of the sweep, without those on launching.
        num_jobs: Number of jobs.

    Returns:
        Whether a job failed.

    Raises:
        UserError: The settings can't be used, or a package is not installed.
    """
    try:
        settings = yaml.safe_load(given) or {}
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"--launcher-settings: expected keys with values. Received: {given}")
    main = (sys.executable, "-m", "trainers", *arguments, "--job")
    failed, num_ended = False, 0
    try:
        commands = [(*main, str(number)) for number in range(num_jobs)]
        with closing(LAUNCHERS[name](executor(), commands, settings)) as results:
            for status, output in results:
                print(output, end="", flush=True)
                failed = failed or status != 0
                num_ended += 1
    except (TypeError, ValueError, NameError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"--launcher-settings: {message}. Received: {given}") from error
    if num_ended < num_jobs:
        print(f"the time is over after {num_ended} of {num_jobs} jobs; the same command goes on")
    return failed


def executor() -> Callable[..., Result]:
    """The function that runs a command; made here, so that it is sent to other machines whole."""
    directory, root = os.getcwd(), str(Path(__file__).resolve().parent.parent)

    def execute(command: Command, note: Callable[[Any], None] | None = None) -> Result:
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(  # noqa: S603 - the command of this sweep
            command,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if note is not None:
            note(process)
        output, errors = process.communicate()
        # The progress bar is on stderr.
        return process.returncode, output + (errors if process.returncode else "")

    return execute


def _in_processes(
    execute: Callable[..., Result], commands: Sequence[Command], settings: dict[str, Any]
) -> Generator[Result]:
    """`jobs` processes of this machine at once, as many as it has processors by default.

    They share the processors: each has its part of the threads, unless the environment says how
    many. After so many `minutes`, or at a signal that ends the sweep, they are told to save what
    they have, and no others start.
    """
    jobs, minutes = settings.pop("jobs", os.cpu_count() or 1), settings.pop("minutes", None)
    limited = minutes is None or (isinstance(minutes, float | int) and minutes > 0)
    if settings or not isinstance(jobs, int) or jobs < 1 or not limited:
        raise ValueError("expected the keys jobs, a number of 1 or more, and minutes, above 0")
    started: list[subprocess.Popen] = []
    at_once = max(1, min(jobs, len(commands)))
    with _threads_each((os.cpu_count() or 1) // at_once), ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(execute, command, started.append) for command in commands]
        done = as_completed(waiting, None if minutes is None else 60.0 * minutes)
        try:
            while True:
                try:
                    result = next(done)
                except (StopIteration, TimeoutError):
                    break
                yield result.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.send_signal(signals.pending or signal.SIGTERM)


@contextmanager
def _threads_each(number: int) -> Iterator[None]:
    """Have the processes started now use so many threads for an operation of TensorFlow."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = str(max(1, number))
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _with_submitit(
    execute: Callable[..., Result], commands: Sequence[Command], settings: dict[str, Any]
) -> Generator[Result]:
    """Jobs of SLURM, or with ``cluster: local`` processes of this machine.

    `folder` is where submitit writes, ``submitit`` by default. The other settings are parameters of
    its `AutoExecutor`, such as ``timeout_min`` and ``slurm_partition``.
    """
    submitit = _package("submitit")
    folder, cluster = settings.pop("folder", "submitit"), settings.pop("cluster", None)
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**settings)
    with executor.batch():
        jobs = [executor.submit(execute, command) for command in commands]
    for job in submitit.helpers.as_completed(jobs):
        yield job.result()


def _with_ray(
    execute: Callable[..., Result], commands: Sequence[Command], settings: dict[str, Any]
) -> Generator[Result]:
    """Tasks of Ray, at the cluster's `address`, on this machine by default.

    The other settings are options of a task, such as ``num_cpus`` and ``num_gpus``.
    """
    ray = _package("ray")
    ray.init(address=settings.pop("address", None), log_to_driver=False)
    try:
        task = ray.remote(execute).options(**settings)
        pending = [task.remote(command) for command in commands]
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)
    finally:
        ray.shutdown()


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"--launcher {name} needs a package. Install it with: "
            f"python -m pip install -e '.[{name}]'"
        ) from error


LAUNCHERS = {"processes": _in_processes, "submitit": _with_submitit, "ray": _with_ray}
