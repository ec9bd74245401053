"""``python -m trainers --config-name NAME [key=value ...]``: run a trainer, or a whole sweep."""

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trainers import command_line, run_directory
from trainers.errors import UserError


def run(composed: DictConfig) -> None:
    """Run one job, unless a sweep finds it finished already."""
    settings = HydraConfig.get()
    directory = Path(settings.runtime.output_dir)
    in_sweep = settings.mode == RunMode.MULTIRUN
    try:
        config = command_line.typed(composed)
        if in_sweep and run_directory.is_finished(directory, config):
            print(f"skipped, already finished: {_shown(directory)}", flush=True)
            return
        groups = {k: v for k, v in settings.runtime.choices.items() if not k.startswith("hydra/")}
        choices = {"config_name": settings.job.config_name, **groups}
        # TensorFlow takes seconds to import, so it waits until there is something to run.
        outcome = import_module(f"trainers.{config.kind}").train(config, directory, choices)
        print(outcome.line(_shown(directory)) if in_sweep else outcome.report(_shown(directory)))
    except UserError as error:
        _exit(error)


def main(arguments: list[str]) -> None:
    """Check the command line, then let Hydra run it."""
    try:
        options = command_line.parse(arguments)
        sys.argv[1:] = command_line.hydra_arguments(options)
    except UserError as error:
        _exit(error)
    hydra.main(config_path=str(Path(options.config_dir).resolve()), version_base="1.3")(run)()


def _exit(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _shown(directory: Path) -> Path:
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


if __name__ == "__main__":
    main(sys.argv[1:])
