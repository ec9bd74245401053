"""Short names of the runs of a sweep, for TensorBoard."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from trainers import run_directory
from trainers.command_line import Job


def link(jobs: Sequence[Job]) -> Path | None:
    """Link the events of a sweep's runs under short names, such as ``eta=1e-4``.

    ``tensorboard --logdir SWEEP/tensorboard`` then shows these names instead of those of the runs'
    directories, which hold every setting. The links lead to the runs by relative paths.

    Args:
        jobs: The jobs of the sweep.

    Returns:
        The directory of the links; None if they can't be made.
    """
    from keras_aeos.summaries.runs import short_names

    names = short_names(
        [dataclasses.asdict(job.config) for job in jobs], [job.directory.name for job in jobs]
    )
    above = Path(os.path.commonpath([job.directory.parent for job in jobs]))
    directory = above / run_directory.TENSORBOARD
    if any(job.directory == directory for job in jobs):
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, job in zip(names, jobs, strict=True):
            place = directory / name.replace(os.sep, "_")
            if place.is_symlink():
                place.unlink()
            target = os.path.relpath(job.directory / run_directory.TENSORBOARD, directory)
            place.symlink_to(target, target_is_directory=True)
    except OSError:  # the file system has no links, or something else is there
        return None
    return directory
