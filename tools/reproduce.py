"""Reproduce a figure of the paper: train its runs, several at once, then draw it.

    python tools/reproduce.py fig05 --minutes 10

runs every configuration of Figure 5 that has not finished, writes `fig05.png` and `fig05.csv`, and
prints the table with the claim. `--minutes` ends the trainings in time: what has finished is drawn,
and the same command goes on where they stopped. Without `--scale` a machine with a GPU takes the
paper's scale and any other one the laptop's. `key=value` changes a setting of every run:

    python tools/reproduce.py fig01 --scale laptop panel=b steps=100
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import figures
from trainers import command_line, launchers, run_directory
from trainers.errors import UserError
from trainers.signals import Interrupted, signals

Sweep = tuple[str, ...]
SCALES = ("laptop", "workstation", "paper")
_ADAPTIVE = ("adam", "adamw", "adafactor", "amsgrad", "padam", "nadam", "rmsprop", "adagrad")
_RAW = ("gradient_descent", "heavy_ball", "nesterov")
# Host memory of a process that trains, in GiB, and processes that share a GPU at most.
_GIB_PER_RUN = 3
_RUNS_PER_GPU = 12


def _each(configuration: str, group: str, options: Sequence[str]) -> tuple[Sweep, ...]:
    return tuple((configuration, f"{group}={option}") for option in options)


# The sweeps of each figure, in stages: a stage needs the files of the one before.
STAGES: dict[str, tuple[tuple[Sweep, ...], ...]] = {
    "fig01": (_each("fig01", "panel", "abc"),),
    "fig02": ((("fig02",),),),
    "fig03": ((("fig03_source",),), (("fig03",),)),
    "fig04": ((("fig04a",), ("fig04b",), ("fig04c",)),),
    "fig05": (_each("fig05", "fig05", _ADAPTIVE),),
    "fig06": ((("fig06",),),),
    "fig07": ((("fig07",),),),
    "fig08": ((("fig08",),),),
    "fig09": ((("fig09",),),),
    "fig10": (_each("fig10", "fig10", ("learning_rate", "beta_2")),),
    "fig11": (
        (
            *_each("fig11", "fig11", ("adam", "momentum")),
            *_each("fig11_fully_connected", "fig11", ("adam", "momentum")),
        ),
    ),
    "fig12": ((("fig12",),),),
    "fig13": (_each("fig13", "fig13", _RAW),),
    "fig14": ((("fig14",),),),
    "fig15": ((("fig15",),),),
    "fig16": ((("fig16",),),),
    "fig16_fully_connected": ((("fig16_fully_connected",),),),
    "fig17": ((("fig17",),),),
    "fig18": ((("fig18",),),),
    "table01": ((("table01",),),),
    "quickstart": ((("quickstart", "--multirun", "seed=0,1,2,3,4,5,6,7"),),),
}
# What is drawn, where that is not the figure of the same name.
DRAWN = {
    "fig08": ("fig08", "fig09", "fig18"),
    "fig10": ("fig10", "fig19"),
    "fig16_fully_connected": ("fig16",),
}
_WITHOUT_SCALE = ("fig02", "fig12", "fig14", "fig17", "table01", "quickstart")


@dataclass(frozen=True)
class Run:
    """A run of a figure: its job, and the command of its own process."""

    job: command_line.Job
    command: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether it has finished with the present configuration."""
        return run_directory.is_finished(self.job.directory, self.job.config)


def runs_of(sweep: Sweep, scale: str, settings: Sequence[str]) -> list[Run]:
    """The runs of a sweep.

    Raises:
        UserError: The sweep has no such scale, or a setting can't be used.
    """
    arguments = ["--config-name", *sweep, *_scaled(sweep[0], scale), *settings]
    options = command_line.parse(arguments)
    main = (sys.executable, "-m", "trainers", *command_line.of_sweep(options), "--job")
    jobs = command_line.jobs(options).jobs
    return [Run(job, (*main, str(number))) for number, job in enumerate(jobs)]


def runs_of_stage(stage: Sequence[Sweep], scale: str, settings: Sequence[str]) -> list[Run]:
    """The runs of the sweeps of a stage, each once.

    A setting such as ``panel=b`` makes several sweeps one.
    """
    runs = [run for sweep in stage for run in runs_of(sweep, scale, settings)]
    return list({run.job.directory: run for run in runs}.values())


def _scaled(configuration: str, scale: str) -> list[str]:
    """The settings that stand for a scale."""
    if configuration in _WITHOUT_SCALE:
        return []
    if configuration == "fig07":
        return [f"fig07={'paper' if scale == 'paper' else 'small'}"]
    return [f"scale={scale}"]


def train(runs: Sequence[Run], num_at_once: int, minutes: float | None) -> bool:
    """Train the runs that have not finished; whether one of them has failed."""
    commands = [run.command for run in runs if not run.finished]
    failed = False
    settings = {"jobs": num_at_once, "minutes": minutes}
    processes = launchers.LAUNCHERS["processes"]
    with contextlib.closing(processes(launchers.executor(), commands, settings)) as results:
        for status, output in results:
            print(output, end="", flush=True)
            failed = failed or status != 0
    return failed


def draw(figure: str, runs: Sequence[Run], out: Path) -> int:
    """Draw a figure from the runs that have finished; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        for number, run in enumerate(runs):
            if run.finished:
                _copy_files(run.job.directory, Path(directory, str(number)))
        # A variant of a figure is kept apart from it.
        place = out if figure in figures.FIGURES else out / figure
        drawn = DRAWN.get(figure, (figure,))
        statuses = [figures.main([name, directory, "--out", str(place)]) for name in drawn]
    return max(statuses)


def _copy_files(source: Path, target: Path) -> None:
    """Copy the files of a run, without its directory for TensorBoard."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, target)


def has_gpu() -> bool:
    """Whether NVIDIA's driver names a GPU; TensorFlow takes seconds to ask."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)  # noqa: S603
    return listed.returncode == 0 and "GPU" in listed.stdout


def at_once(gpu: bool) -> int:
    """As many runs as processors, memory and one GPU allow."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    room = max(1, int(memory // _GIB_PER_RUN))
    return min(room, _RUNS_PER_GPU if gpu else os.cpu_count() or 1)


def reproduce(options: argparse.Namespace) -> int:
    """Train, then draw; return the exit status.

    Raises:
        UserError: A setting can't be used.
    """
    began, gpu = time.monotonic(), has_gpu()
    scale = options.scale or ("paper" if gpu else "laptop")
    num_at_once = options.jobs or at_once(gpu)
    stages = [runs_of_stage(stage, scale, options.settings) for stage in STAGES[options.figure]]
    failed = False
    for runs in stages:
        left = None
        if options.minutes is not None:
            left = options.minutes - (time.monotonic() - began) / 60.0
        if left is not None and left <= 0.0:
            break
        failed = train(runs, num_at_once, left) or failed
        if not all(run.finished for run in runs):
            break
    everything = [run for runs in stages for run in runs]
    number = sum(run.finished for run in everything)
    print(f"finished: {number} of {len(everything)} runs", end="")
    print("; the same command goes on" if number < len(everything) else "", flush=True)
    if not any(run.finished for run in stages[-1]):
        return 1 if failed else 0
    return max(draw(options.figure, everything, options.out), int(failed))


def main(arguments: Sequence[str]) -> int:
    """Reproduce the figure that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/reproduce.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figure", choices=tuple(STAGES), metavar="FIGURE", help=", ".join(STAGES))
    parser.add_argument("--scale", choices=SCALES, help="how large; not every figure has all")
    parser.add_argument("--minutes", type=_positive, help="time for training; default: no limit")
    parser.add_argument(
        "--jobs", type=_count, help="runs at once; default: what processors and memory allow"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="default: figures"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of every run")
    options = parser.parse_intermixed_args(arguments)
    try:
        with signals.handled():
            return reproduce(options)
    except Interrupted as interrupted:
        print(f"{interrupted}. To go on, start the same command again", file=sys.stderr)
        return interrupted.status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0. Received: {text}")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"expected an integer above 0. Received: {text}")


if __name__ == "__main__":
    # The runs share the memory of a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    sys.exit(main(sys.argv[1:]))
