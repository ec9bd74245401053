"""Train a small network for each typical curve of docs/reading.md, and draw it.

    python tools/gallery.py [NAME ...] [--out DIR]

writes `NAME.png` for each curve, or for those named, to `docs/figures/gallery`. The data are
generated; nothing is downloaded. All of them take a few minutes.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

# A script has its own directory on the path, not the checkout's root.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras_aeos
from tools.plotting import gallery

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "figures" / "gallery"
NUM_EXAMPLES, NUM_INPUTS, NUM_CLASSES = 512, 20, 10


@dataclass(frozen=True)
class Training:
    """A small network, its optimizer and its batches.

    Attributes:
        optimizer: Makes the optimizer.
        title: Title of the picture.
        steps: Number of updates.
        batch_size: Examples of an update; all of them by default.
        loss: Name of a loss of Keras for one-hot targets.
        random_labels: Whether the classes are shuffled, which takes longer to fit.
        batch_norm: Whether a BatchNormalization layer precedes each activation.
        update_freq: Updates between measurements.
    """

    optimizer: Callable[[], keras.optimizers.Optimizer]
    title: str
    steps: int = 600
    batch_size: int = NUM_EXAMPLES
    loss: str = "mse"
    random_labels: bool = False
    batch_norm: bool = False
    update_freq: int = 5


def _warm_up() -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises linearly from 0.0001 to 0.04 over 500 updates."""
    return keras.optimizers.schedules.PolynomialDecay(1e-4, 500, end_learning_rate=4e-2)


TRAININGS = {
    "stable": Training(lambda: keras.optimizers.Adam(4e-3), "Stable: Adam, η = 0.004"),
    "edge": Training(lambda: keras.optimizers.Adam(2e-2), "At the edge: Adam, η = 0.02"),
    "diverging": Training(
        lambda: keras.optimizers.SGD(5.0), "Diverging: SGD, η = 5", steps=8, update_freq=1
    ),
    "mini_batch": Training(
        lambda: keras.optimizers.Adam(2e-2), "Minibatches of 128: Adam, η = 0.02", batch_size=128
    ),
    "warm_up": Training(
        lambda: keras.optimizers.Adam(_warm_up()), "Warm-up over 500 updates: Adam", steps=700
    ),
    "batch_norm": Training(
        lambda: keras.optimizers.Adam(2e-2), "BatchNorm: Adam, η = 0.02", batch_norm=True
    ),
    "fitted": Training(
        lambda: keras.optimizers.Adam(5e-2),
        "Fitted: Adam, η = 0.05, cross-entropy",
        steps=100,
        loss="categorical_crossentropy",
        random_labels=True,
        update_freq=2,
    ),
}


def examples(random_labels: bool) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs, and one-hot classes that a random network assigns to them, or shuffled."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((NUM_EXAMPLES, NUM_INPUTS))
    hidden = np.tanh(x @ generator.standard_normal((NUM_INPUTS, 30)))
    classes = np.argmax(hidden @ generator.standard_normal((30, NUM_CLASSES)), axis=-1)
    if random_labels:
        generator.shuffle(classes)
    return x.astype("float32"), np.eye(NUM_CLASSES, dtype="float32")[classes]


def network(training: Training) -> keras.Model:
    """Three hidden layers of 32 tanh units."""
    layers: list[keras.Layer] = [keras.Input((NUM_INPUTS,))]
    for _ in range(3):
        layers.append(keras.layers.Dense(32))
        if training.batch_norm:
            layers.append(keras.layers.BatchNormalization())
        layers.append(keras.layers.Activation("tanh"))
    layers.append(keras.layers.Dense(NUM_CLASSES))
    if training.loss == "categorical_crossentropy":
        layers.append(keras.layers.Softmax())
    return keras.Sequential(layers)


def train(training: Training) -> pd.DataFrame:
    """Train a network and return the monitor's rows, measured on all examples."""
    keras.utils.set_random_seed(0)
    x, y = examples(training.random_labels)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(NUM_EXAMPLES, seed=0).repeat()
    batches = batches.batch(training.batch_size).take(training.steps)
    model = network(training)
    model.compile(training.optimizer(), training.loss)
    with tempfile.TemporaryDirectory() as logs:
        monitor = keras_aeos.AEoSMonitor((x, y), update_freq=training.update_freq, log_dir=logs)
        model.fit(batches, verbose=0, callbacks=[monitor])
    return monitor.history


def main(arguments: Sequence[str]) -> int:
    """Draw the curves that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/gallery.py", description="Draw the typical curves of docs/reading.md."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(TRAININGS)}; default: all"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=PICTURES,
        metavar="DIR",
        help="where to write; default: docs/figures/gallery",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(TRAININGS):
        parser.error(f"NAME must be one of {', '.join(TRAININGS)}. Received: {sorted(unknown)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or TRAININGS:
        rows = train(TRAININGS[name])
        gallery.draw(rows, TRAININGS[name].title).savefig(options.out / f"{name}.png", dpi=150)
        print(f"{name}: {rows['edge_ratio'].max():.2f} at most, {rows['edge_ratio'].iloc[-1]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
