"""``python -m trainers --config-name NAME [key=value ...]``: run a trainer, or a whole sweep."""

import dataclasses
import sys
import traceback
from importlib import import_module
from pathlib import Path

try:
    from omegaconf import OmegaConf

    from trainers import command_line, run_directory
    from trainers.command_line import Job
    from trainers.errors import RunError, UserError
    from trainers.launchers import launch
    from trainers.signals import Interrupted, signals
except ModuleNotFoundError as missing:
    print(
        f"error: the trainers need {missing.name}; install what they need with "
        "python -m pip install -e '.[experiments]' in the checkout",
        file=sys.stderr,
    )
    sys.exit(2)


def run(job: Job, in_sweep: bool) -> None:
    """Run one job, unless a sweep finds it finished already.

    Raises:
        UserError: The job can't run here, or a record of an earlier run is damaged.
    """
    shown = _shown(job.directory)
    if in_sweep and run_directory.is_finished(job.directory, job.config):
        print(f"skipped, already finished: {shown}", flush=True)
        return
    # TensorFlow takes seconds to import, so it waits until there is something to run.
    trainer = import_module(f"trainers.{job.config.kind}")
    outcome = trainer.train(job.config, job.directory, job.choices)
    print(outcome.line(shown) if in_sweep else outcome.report(shown), flush=True)


def main(arguments: list[str]) -> None:
    """Check the command line, then run its jobs.

    The process ends with status 2 and one line at what the user can fix, with status 1 and one line
    at a fault of the surroundings, such as a full disk. In a sweep, a job that fails otherwise
    prints its traceback and the next one starts; the status is 1 at the end. At SIGTERM or SIGINT
    the run is saved after the present update, and the process ends with status 143 or 130.
    """
    try:
        with signals.handled():
            failed = _run_all(arguments)
    except Interrupted as interrupted:
        print(f"{interrupted}. To go on, start the same command again", file=sys.stderr)
        sys.exit(interrupted.status)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunError) else 2)
    if failed:
        sys.exit(1)


def _run_all(arguments: list[str]) -> bool:
    """Run the jobs of a command line; whether one has failed."""
    failed = False
    options = command_line.parse(arguments)
    found = command_line.jobs(options)
    if options.cfg:
        print("---\n".join(OmegaConf.to_yaml(dataclasses.asdict(j.config)) for j in found.jobs))
        return False
    if options.job is None:
        _name_runs(found)
    if options.launcher is not None:
        settings, number = options.launcher_settings or "", len(found.jobs)
        return launch(options.launcher, settings, command_line.of_sweep(options), number)
    for job in found.jobs:
        try:
            run(job, found.in_sweep)
        except Exception as error:
            if not found.in_sweep or (
                isinstance(error, UserError) and not isinstance(error, RunError)
            ):
                raise
            if isinstance(error, RunError):
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
            failed = True
        if signals.pending is not None and job is not found.jobs[-1]:
            raise Interrupted(signals.pending, f"after the run in {_shown(job.directory)}")
    return failed


def _name_runs(found: command_line.Jobs) -> None:
    """Say where TensorBoard shows the runs of a sweep under short names."""
    if not found.in_sweep or any(job.config.kind != "training" for job in found.jobs):
        return
    directory = import_module("trainers.sweep_names").link(found.jobs)
    if directory is not None:
        print(f"TensorBoard: tensorboard --logdir {_shown(directory)}", flush=True)


def _shown(directory: Path) -> Path:
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


if __name__ == "__main__":
    main(sys.argv[1:])
