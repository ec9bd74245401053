"""The configurations in `configs/`: all can be used, and are those of the paper's figures."""

import dataclasses
from typing import Any

import pytest
from omegaconf import OmegaConf

from trainers import command_line, composition, schema


def composed(name, *overrides):
    """The configuration of the first job."""
    return command_line.jobs(command_line.parse(["-cn", name, *overrides])).jobs[0].config


@pytest.mark.parametrize("name", schema.OPTIMIZERS)
def test_quickstart_takes_every_optimizer(name):
    assert composed("quickstart", f"optimizer={name}").optimizer.name == name


def test_every_configuration_can_be_used():
    names = [path.stem for path in composition.CONFIGS.glob("*.yaml")]
    assert {"quickstart", "fully_connected", "quadratic", "fig01", "fig08"} <= set(names)
    for name in names:
        assert isinstance(composed(name), tuple(schema.RUNS.values()))


OPTIMIZER_FILES = sorted(path.stem for path in composition.CONFIGS.glob("optimizer/*.yaml"))


@pytest.mark.parametrize("name", OPTIMIZER_FILES)
def test_optimizer_file_states_every_key(name):
    """So that runs don't change with the defaults of a constructor."""
    file: Any = OmegaConf.load(composition.CONFIGS / f"optimizer/{name}.yaml")
    fields = {field.name for field in dataclasses.fields(schema.OPTIMIZERS[name])}
    assert set(file) == {"defaults", *fields}
    assert file["name"] == name


SCALES = {
    "paper": (50_000, "cross_entropy", 500),
    "workstation": (20_000, "cross_entropy", 500),
    "laptop": (3_000, "squared_error", 1_500),
}


@pytest.mark.parametrize(("scale", "expected"), SCALES.items(), ids=SCALES)
def test_scales_of_figure_1(scale, expected):
    config = composed("fig01", f"scale={scale}")
    assert (config.data.num_examples, config.loss, config.steps) == expected
    assert not config.optimizer.bias_correction


# steps, update_freq, every_step, learning rates
ZOOMS = {
    "fig08": (1_000, 20, [600, 800], ["5e-05", "0.0001", "0.0002", "0.0004"]),
    "fig09": (800, 20, [600, 800], ["5e-05", "0.0002"]),
    "fig18": (1_000, 5, None, ["0.0002"]),
}


@pytest.mark.parametrize(("name", "expected"), ZOOMS.items(), ids=ZOOMS)
def test_runs_of_figures_8_9_and_18_differ_in_what_is_measured_alone(name, expected):
    config = composed(name, "scale=paper")
    steps, update_freq, every_step, rates = expected
    assert config.steps == steps
    assert (config.monitor.update_freq, config.monitor.every_step) == (update_freq, every_step)
    assert config.monitor.quantities == [*schema.DEFAULT_QUANTITIES, "alignment"]
    assert config.monitor.num_eigenvalues == 4
    shared = composed("fig08", "scale=paper")
    for section in ("model", "data", "loss", "seed"):
        assert getattr(config, section) == getattr(shared, section)
    rate = config.optimizer.learning_rate
    assert config.optimizer == dataclasses.replace(shared.optimizer, learning_rate=rate)
    jobs = jobs_of(name)
    assert [f"{float(rate.split('=')[1])}" for [rate] in jobs] == rates


def jobs_of(name, *overrides):
    """Settings of each job of a figure, as in the names of the directories."""
    found = command_line.jobs(command_line.parse(["-cn", name, *overrides]))
    return [job.directory.name.split("__") for job in found.jobs]


@pytest.mark.parametrize(("panel", "count"), [("a", 4), ("b", 4), ("c", 6)])
def test_number_of_runs_of_each_panel(panel, count):
    assert len(jobs_of("fig01", f"panel={panel}")) == count


def test_a_key_on_the_command_line_replaces_the_sweep_over_it():
    jobs = jobs_of("fig01", "optimizer.learning_rate=1e-4")
    assert jobs == [["optimizer.learning_rate=0.0001"]]
