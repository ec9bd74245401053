"""Runs that nobody trained, written as the trainers write theirs."""

import dataclasses
import json

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from tools import figures
from trainers import schema


def write(directory, config, record, **tables):
    """Write a finished run: its configuration, what its record has besides, and its CSV files."""
    directory.mkdir(parents=True)
    text = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))
    (directory / "config.yaml").write_text(text)
    (directory / "run.json").write_text(json.dumps({"status": "completed", **record}))
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(directory / f"{name}.csv", index=False)
    return directory


def write_training(
    root, panel="a", ratio=1.0, figure="fig01", optimizer=None, loss="cross_entropy", **settings
):
    """Write a finished run whose edge ratio rises to `ratio` at step 100 and stays."""
    optimizer = optimizer or schema.OPTIMIZERS["adam"](bias_correction=False)
    optimizer = dataclasses.replace(
        optimizer, **{k: v for k, v in settings.items() if k != "freeze_step"}
    )
    config = schema.Config(
        model=schema.FullyConnected(),
        optimizer=optimizer,
        loss=loss,
        freeze_step=settings.get("freeze_step"),
        output_dir="runs",
    )
    directory = root / f"{panel},{','.join(f'{k}={v}' for k, v in settings.items())}"
    beta = getattr(optimizer, "beta_1", 0.0)
    threshold = (2 + 2 * beta) / ((1 - beta) * optimizer.learning_rate)
    step = np.arange(20, 201, 20)
    ratios = ratio * np.minimum(1, step / 100)
    metrics = {
        "step": step,
        "loss": 2.3 - step / 200,
        "preconditioned_sharpness": ratios * threshold,
        "sharpness": 10.0 * step,
        "stability_threshold": threshold,
        "edge_ratio": ratios,
    }
    record = {"first_loss": 2.3, "choices": {"config_name": figure, "panel": panel}}
    return write(directory, config, record, metrics=metrics)


def drawn(root, name):
    """A figure and its table, drawn from the runs below a directory or in an archive."""
    return figures.draw(name, root)


def change_record(directory, **changes):
    """Change entries of a run's `run.json`."""
    path = directory / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_table(directory, change, name="metrics"):
    """Replace a table of a run by a function of it."""
    path = directory / f"{name}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def damages(name, column):
    """How a run of a figure breaks that needs a column of a table, and words of the error."""

    def without_column(directory):
        change_table(directory, lambda table: table.drop(columns=column), name)

    return {
        "half done": (
            lambda d: change_record(d, status="running"),
            ["not finished", "status: running", "again"],
        ),
        "interrupted": (
            lambda d: change_record(d, status="interrupted"),
            ["status: interrupted"],
        ),
        "half a record": (lambda d: (d / "run.json").write_text("{"), ["run.json", "JSON"]),
        "no table": (lambda d: (d / f"{name}.csv").unlink(), [f"{name}.csv"]),
        "no configuration": (lambda d: (d / "config.yaml").unlink(), ["config.yaml"]),
        "missing column": (without_column, [f"{name}.csv", column]),
        "empty file": (
            lambda d: (d / f"{name}.csv").write_text(""),
            [f"{name}.csv", "not a table"],
        ),
        "a list as record": (lambda d: (d / "run.json").write_text("[]"), ["run.json", "record"]),
        "choices that are none": (lambda d: change_record(d, choices=["a"]), ["run.json"]),
        "record of bytes": (lambda d: (d / "run.json").write_bytes(b"\xff\xfe"), ["run.json"]),
        "half a configuration": (
            lambda d: (d / "config.yaml").write_text("a: [1"),
            ["config.yaml", "not the configuration"],
        ),
        "empty configuration": (lambda d: (d / "config.yaml").write_text(""), ["config.yaml"]),
        "words for a number": (
            lambda d: (d / "config.yaml").write_text("optimizer: {learning_rate: abc}"),
            ["config.yaml", "learning_rate"],
        ),
        "half a line": (
            lambda d: (d / f"{name}.csv").write_text((d / f"{name}.csv").read_text()[:-3]),
            [f"{name}.csv", "damaged", "cut"],
        ),
        "words in a column": (
            lambda d: change_table(d, lambda table: table.assign(**{column: "x"}), name),
            [f"{name}.csv", "damaged", column],
        ),
        "table written twice": (
            lambda d: change_table(d, lambda table: pd.concat([table, table]), name),
            [f"{name}.csv", "damaged", "each step once"],
        ),
        "of another figure": (lambda d: change_record(d, choices={}), ["--config-name fig"]),
        "no run": (lambda d: (d / "run.json").unlink(), ["no runs below", "run.json"]),
    }
