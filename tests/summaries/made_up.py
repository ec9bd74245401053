"""Runs that nobody trained, as a monitor or a trainer leaves them."""

import json

import numpy as np
import pandas as pd

RATIOS = (0.4, 0.8, 0.95, 1.02, 0.98, 1.04)


def metrics(ratios=RATIOS, threshold=380.0, **columns):
    """Rows of a run, twenty steps apart."""
    count = len(ratios)
    return pd.DataFrame(
        {
            "step": 20 * np.arange(1, count + 1),
            "learning_rate": 0.1,
            "loss": np.linspace(2.0, 1.0, count),
            "preconditioned_sharpness": np.multiply(ratios, threshold),
            "sharpness": np.linspace(10.0, 20.0, count),
            "stability_threshold": threshold,
            "edge_ratio": ratios,
            "gradient_norm_squared": np.geomspace(1.0, 1e-3, count),
            "preconditioner_norm_squared": np.linspace(1.0, 2.0, count),
            "num_hvps": 8,
            "overhead": 0.05,
            "converged": True,
            "exact": True,
        }
    ).assign(**columns)


def write(directory, rate=None, **columns):
    """Write a run; with a learning rate, that of a trainer."""
    directory.mkdir(parents=True)
    metrics(**columns).to_csv(directory / "metrics.csv", index=False)
    if rate is not None:
        (directory / "config.yaml").write_text(
            "model: {name: cnn}\n"
            "data: {name: digits, num_examples: 60, batch_size: null}\n"
            f"loss: cross_entropy\noptimizer: {{name: adam, learning_rate: {rate}, beta_1: 0.9}}\n"
            f"output_dir: {directory.name}\n"
        )
        record = {"status": "completed", "choices": {}, "first_loss": 2.0, "wall_seconds": 3.0}
        (directory / "run.json").write_text(json.dumps(record))
    return directory
