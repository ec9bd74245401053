"""Measure which edge of stability applies in mini-batches.

    python tools/batch_edges.py quadratics
    python tools/batch_edges.py networks --out docs/runs/batch_edges.csv [--optimizers adam]
    python tools/batch_edges.py table docs/runs/batch_edges.csv docs/figures/batch_edges.png

`quadratics` compares the ratio of the monitor with the exact edge of least squares in mini-batches,
from the moments of all parameters. `networks` trains each network at each batch size and learning
rate and appends one line for each measured row to the CSV file; started again, it goes on with the
trainings that are missing. `table` prints the plateau of each training and draws the picture.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_aeos.stability import Momentum
from tools.benchmarking.tables import print_rows

BETA = 0.9
# The momentum of each optimizer, and its learning rates for each network.
OPTIMIZERS: dict[str, tuple[Momentum, dict[str, tuple[float, ...]]]] = {
    "adam": (
        Momentum.heavy_ball(BETA, ema=True),
        {
            "fully connected": (3e-3, 1e-2, 3e-2),
            "convolutional": (3e-3, 1e-2, 3e-2),
            "transformer": (3e-3, 1e-2, 3e-2),
        },
    ),
    "sgd with momentum": (
        Momentum.heavy_ball(BETA),
        {
            "fully connected": (0.1, 0.3, 1.0),
            "convolutional": (0.1, 0.3, 1.0),
            "transformer": (0.1, 0.3, 1.0),
        },
    ),
}
BATCH_SIZES = (8, 32, 128, 512)
NUM_EXAMPLES = 512
NUM_UPDATES, SPACING = 1200, 40
# The plateau is the median over this last part of the rows.
LAST_PART = 0.5
FIELDS = (
    *("network", "optimizer", "learning_rate", "batch_size", "step", "loss"),
    *("preconditioned_sharpness", "preconditioned_batch_sharpness", "stability_threshold"),
    *("edge_ratio", "batch_edge_ratio", "curvature_noise", "converged", "diverged"),
)
KEY = list(FIELDS[:4])


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/batch_edges.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("quadratics", help="compare with exact edges")
    networks = commands.add_parser("networks", help="train and measure")
    networks.add_argument("--out", type=Path, default=Path("batch_edges.csv"))
    networks.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    networks.add_argument("--updates", type=int, default=NUM_UPDATES)
    table = commands.add_parser("table", help="print and draw what was measured")
    table.add_argument("path", type=Path, metavar="CSV")
    table.add_argument("picture", type=Path, metavar="PICTURE")
    options = parser.parse_args(arguments)
    if options.command == "quadratics":
        print_rows(quadratics())
    elif options.command == "networks":
        measure_networks(options.out, options.optimizers, options.updates)
    else:
        plateaus = summary(pd.read_csv(options.path))
        print_rows(ranges(plateaus))
        draw(plateaus).savefig(options.picture, dpi=150)
    return 0


# ------------------------------------------------------------------------------------- quadratics


def quadratics(
    num_parameters: int = 6, num_examples: int = 60, batch_sizes: Sequence[int] = (1, 4, 16, 64)
) -> list[dict[str, str]]:
    """Rows of the table: least squares in random batches, at the exact edge."""
    generator = np.random.default_rng(0)
    examples = generator.standard_normal((num_examples, num_parameters))
    examples *= np.arange(1.0, num_parameters + 1.0) ** -0.5
    rows = []
    for name, momentum in {
        "none": Momentum.none(),
        "EMA heavy ball": Momentum.heavy_ball(BETA, ema=True),
        "EMA Nesterov": Momentum.nesterov(BETA, ema=True),
    }.items():
        for batch_size in batch_sizes:
            hessian, variance = hessian_moments(examples, batch_size)
            rate = exact_edge(momentum, hessian, variance)
            values, vectors = np.linalg.eigh(hessian)
            noise = noise_along(variance, vectors[:, -1]) / values[-1] ** 2
            recurrence = momentum.recurrence(rate)
            rows.append(
                {
                    "momentum": name,
                    "batch": str(batch_size),
                    "λ₁ / λ*": f"{values[-1] / recurrence.stability_threshold():.2f}",
                    "σ²": f"{noise:.3g}",
                    "λ₁ / λ_σ": f"{values[-1] / recurrence.mean_square_threshold(noise):.2f}",
                }
            )
    return rows


def hessian_moments(examples: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of ``H_b = Σ aaᵀ / b`` over batches of b independent examples a.

    Returns:
        H, shape (n, n), and ``E dH_ij dH_kl``, shape (n, n, n, n), for ``dH = H_b - H``.
    """
    hessian = examples.T @ examples / len(examples)
    squares = np.einsum("ai,aj,ak,al->ijkl", *[examples] * 4) / len(examples)
    return hessian, (squares - np.einsum("ij,kl->ijkl", hessian, hessian)) / batch_size


def noise_along(variance: np.ndarray, vector: np.ndarray) -> float:
    """``E ‖dH v‖²``."""
    return float(np.einsum("ijil,j,l->", variance, vector, vector))


def exact_edge(momentum: Momentum, hessian: np.ndarray, variance: np.ndarray) -> float:
    """The learning rate at which the second moments of all parameters begin to grow."""
    largest = np.linalg.eigvalsh(hessian)[-1]
    low, high = 0.0, 1.01 * momentum.recurrence(1.0).stability_threshold() / largest
    for _ in range(25):
        middle = (low + high) / 2.0
        moments = moment_map(momentum, middle, hessian, variance)
        stable = np.abs(np.linalg.eigvals(moments)).max() <= 1.0 + 1e-9
        low, high = (middle, high) if stable else (low, middle)
    return low


def moment_map(
    momentum: Momentum, rate: float, hessian: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """The map of ``E s sᵀ``, flat, for the state s of parameters and buffers."""
    one = np.eye(len(hessian))
    beta, weight = momentum.beta, momentum.gradient_weight
    share, own = momentum.buffer_share, momentum.gradient_share
    # What the curvature is multiplied by, in the parameters and in the buffer.
    entry = np.concatenate([-rate * (share * weight + own) * one, weight * one])
    mean = np.block([[one, -rate * share * beta * one], [0.0 * one, beta * one]])
    mean[:, : len(one)] += entry @ hessian
    read = np.concatenate([one, 0.0 * one], axis=1)
    spread = variance.transpose(0, 2, 1, 3).reshape(len(one) ** 2, -1)
    return np.kron(mean, mean) + np.kron(entry, entry) @ spread @ np.kron(read, read)


# --------------------------------------------------------------------------------------- networks


def measure_networks(path: Path, names: Sequence[str], num_updates: int) -> None:
    """Train what the file lacks, and add its rows."""
    known = set()
    if path.exists():
        known = set(pd.read_csv(path)[KEY].itertuples(index=False, name=None))
    for name in names:
        _, rates = OPTIMIZERS[name]
        for network in rates:
            for rate in rates[network]:
                for batch_size in BATCH_SIZES:
                    key = (network, name, rate, batch_size)
                    if key in known:
                        continue
                    rows = train(*key, num_updates)
                    fresh = not path.exists()
                    with path.open("a", newline="") as file:
                        writer = csv.DictWriter(file, FIELDS)
                        if fresh:
                            writer.writeheader()
                        writer.writerows(rows)
                    print(*key, len(rows), "rows", flush=True)


def train(
    network: str, optimizer: str, rate: float, batch_size: int, num_updates: int
) -> list[dict[str, Any]]:
    """The rows of a training, dictionaries of `FIELDS`."""
    import tempfile

    import keras
    import tensorflow as tf

    import keras_aeos

    keras.utils.set_random_seed(0)
    model, x, y = _networks()[network]()
    made = (
        keras.optimizers.Adam(rate)
        if optimizer == "adam"
        else keras.optimizers.SGD(rate, momentum=BETA)
    )
    letters = network == "transformer"
    model.compile(
        made, keras.losses.SparseCategoricalCrossentropy(from_logits=True) if letters else "mse"
    )
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0)
    with tempfile.TemporaryDirectory() as directory:
        monitor = keras_aeos.AEoSMonitor(
            (x, y),
            batch_size=batch_size,
            update_freq=SPACING,
            quantities=["preconditioned_batch_sharpness", "batch_edge_ratio"],
            solver=keras_aeos.Eigensolver(rtol=1e-2, max_hvps=60),
            log_dir=directory,
        )
        fitted = model.fit(
            batches.batch(batch_size, drop_remainder=True).repeat(),
            steps_per_epoch=num_updates,
            shuffle=False,
            verbose=0,
            callbacks=[monitor, keras.callbacks.TerminateOnNaN()],
        )
    # The mean over the updates, also those between rows.
    diverged = not np.isfinite(fitted.history["loss"][-1])
    key = dict(zip(KEY, (network, optimizer, rate, batch_size), strict=True))
    return [
        {**key, **{name: row[name] for name in FIELDS[len(KEY) : -1]}, "diverged": diverged}
        for row in monitor.history.to_dict("records")
    ]


def _networks() -> dict[str, Any]:
    """Functions that return a model, its inputs and its targets."""
    import keras
    from keras import layers

    from tools.benchmarking import trainings
    from trainers import schema
    from trainers.data import images

    def of_digits(*stack: layers.Layer) -> tuple[Any, np.ndarray, np.ndarray]:
        examples, _ = images.load(schema.Data(name="digits", num_examples=NUM_EXAMPLES))
        model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10)])
        x = examples.inputs.reshape(NUM_EXAMPLES, -1)
        return model, x, np.eye(10, dtype=np.float32)[examples.labels]

    def fully_connected() -> tuple[Any, np.ndarray, np.ndarray]:
        return of_digits(layers.Dense(32, "tanh"), layers.Dense(32, "tanh"))

    def convolutional() -> tuple[Any, np.ndarray, np.ndarray]:
        return of_digits(
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(8, 3, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 2, activation="tanh"),
            layers.Flatten(),
        )

    def transformer() -> tuple[Any, np.ndarray, np.ndarray]:
        return trainings.transformer(NUM_EXAMPLES)

    return {
        "fully connected": fully_connected,
        "convolutional": convolutional,
        "transformer": transformer,
    }


# ------------------------------------------------------------------------------------------ table


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The plateau of each training: medians over the last part of its rows."""
    records = []
    for key, part in rows.groupby(KEY, sort=False):
        *_, optimizer, rate, _ = key
        kept = part[part["step"] > (1.0 - LAST_PART) * part["step"].max()]
        record = dict(zip(KEY, key, strict=True))
        if not part["diverged"].any():
            recurrence = OPTIMIZERS[optimizer][0].recurrence(rate)
            # The thresholds of the curvature alone and of the noise alone.
            small = 1e12 * recurrence.mean_square_threshold(1e12)
            batch = kept["preconditioned_batch_sharpness"]
            record |= {
                "edge ratio": kept["edge_ratio"].median(),
                "batch sharpness / λ*": (batch / kept["stability_threshold"]).median(),
                "batch sharpness / κ*": (batch / small).median(),
                "batch edge ratio": kept["batch_edge_ratio"].median(),
                "σ²": kept["curvature_noise"].median(),
                "last loss": part["loss"].iloc[-1],
            }
        records.append(record)
    return pd.DataFrame(records)


def ranges(plateaus: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of the table: the range over the learning rates whose training did not diverge."""
    rows = []
    for (network, optimizer, batch_size), part in plateaus.groupby(
        ["network", "optimizer", "batch_size"], sort=False
    ):
        trained = part.dropna(subset="edge ratio")
        # Without noise batch sharpness is no sharpness of the top.
        noisy = trained if batch_size < NUM_EXAMPLES else trained[:0]
        rows.append(
            {
                "network": network,
                "optimizer": optimizer,
                "batch": str(batch_size),
                "trained": f"{len(trained)} of {len(part)}",
                "λ₁ / λ*": _range(trained["edge ratio"]),
                "λ₁ / λ_σ": _range(trained["batch edge ratio"]),
                "batch sharpness / κ*": _range(noisy["batch sharpness / κ*"]),
            }
        )
    return rows


def _range(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) else ""


_CURVES = {
    "edge ratio": ("λ₁ / λ*", "tab:blue"),
    "batch sharpness / κ*": ("batch sharpness / κ*", "tab:orange"),
    "batch edge ratio": ("λ₁ / λ_σ, of the theory", "tab:green"),
}
_MARKERS = {"smallest η": "o", "middle η": "s", "largest η": "^"}


def draw(plateaus: pd.DataFrame) -> Figure:
    """A panel for each optimizer and network: three ratios over the batch size, one is the edge."""
    plateaus = plateaus.set_index(["optimizer", "network"])
    names = list(plateaus.index.unique("optimizer"))
    networks = list(plateaus.index.unique("network"))
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(3.0 + 3.0 * len(networks), 0.9 + 2.6 * len(names)))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(len(names), len(networks), sharex=True, sharey=True, squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for axes, network in zip(line, networks, strict=True):
            if (name, network) in plateaus.index:
                _draw_panel(axes, plateaus.loc[[(name, network)]])
            axes.axhline(1.0, color="black", linestyle="--", linewidth=1.0)
            axes.set(xscale="log", yscale="log", title=f"{network}\n{name}")
            axes.set_xticks(BATCH_SIZES, map(str, BATCH_SIZES))
            axes.minorticks_off()
    figure.supxlabel("batch size", fontsize="medium")
    figure.supylabel("median over the last half of training", fontsize="medium")
    handles = [Line2D([], [], color=color, label=label) for label, color in _CURVES.values()]
    handles += [
        Line2D([], [], color="gray", marker=marker, linestyle="", label=label)
        for label, marker in _MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    sns.despine(figure)
    return figure


def _draw_panel(axes: Axes, trainings: pd.DataFrame) -> None:
    of_rates = trainings.groupby("learning_rate")
    for column, (_, color) in _CURVES.items():
        for marker, (_, part) in zip(_MARKERS.values(), of_rates, strict=False):
            axes.plot(part["batch_size"], part[column], color=color, marker=marker)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
