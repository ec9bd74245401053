"""Solves along trainings of small networks, each started from the last one.

The operator is ``P^-½ H P^-½`` of the loss of all examples, every ten updates, in trainings in full
batches and in mini-batches, at the edge of stability and away from it.
"""

import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import optimizers
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import Matvec
from tools.benchmarking import misses
from tools.benchmarking.reference_solvers import tridiagonal
from tools.benchmarking.tables import print_rows
from trainers import schema
from trainers.data import images, number_words

NUM_EXAMPLES = 200
# Updates from one operator to the next, and operators of a training.
SPACING, NUM_OPERATORS = 10, 31
# Steps of the Lanczos runs that give the largest eigenvalues.
_NUM_REFERENCE_STEPS = 60
# Length of the windows of text, and width of the transformer.
_LENGTH, _WIDTH = 12, 8


@dataclasses.dataclass(frozen=True)
class Training:
    """A network with its optimizer and its batch size.

    Attributes:
        build: Function that returns a model, its inputs and its labels.
        optimizer: Function that returns the optimizer.
        batch_size: Examples of an update.
        squared: Whether the loss is the mean squared error, not the cross-entropy.
    """

    build: Callable[[], tuple[keras.Model, np.ndarray, np.ndarray]]
    optimizer: Callable[[], keras.optimizers.Optimizer]
    batch_size: int
    squared: bool = False

    def operators(self, num_operators: int = NUM_OPERATORS) -> Iterator[tuple[Matvec, int]]:
        """Yield the operators: a function from a vector (n,) to its product, and n."""
        for objective, _ in self.points(num_operators):
            optimizer = objective.model.optimizer
            yield preconditioned(objective, optimizer), objective.num_parameters

    def points(self, number: int = NUM_OPERATORS) -> Iterator[tuple[Objective, list[tf.Tensor]]]:
        """Yield the loss of all examples after some updates, and the parameters before the last."""
        keras.utils.set_random_seed(0)
        model, x, y = self.build()
        optimizer = self.optimizer()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if self.squared:
            loss, y = keras.losses.MeanSquaredError(), np.eye(10, dtype=np.float32)[y]
        model.compile(optimizer, loss)
        batches = tf.data.Dataset.from_tensor_slices((x, y))
        if self.batch_size < len(x):
            batches = batches.shuffle(len(x), seed=0)
        feed = iter(batches.batch(self.batch_size, drop_remainder=True).repeat())
        objective = Objective(model, from_data((x, y), len(x)))
        for _ in range(number):
            for _ in range(SPACING):
                before = [tf.identity(v.value) for v in objective.variables]
                model.train_on_batch(*next(feed))
            yield objective, before


def preconditioned(objective: Objective, optimizer: keras.optimizers.Optimizer) -> Matvec:
    """``P^-½ H P^-½`` at the present parameters, with the P of the last update."""
    hessian = objective.linearise()
    scale = tf.math.rsqrt(objective.pack(keras_aeos.preconditioner(optimizer)))
    return lambda vector: scale * hessian.hessian_product(scale * vector)


def print_table() -> None:
    """Print the miss rates and products along all trainings."""
    rows = []
    for name in TRAININGS:
        tables = solve_training(name, misses.WARM_TOLERANCES)
        rows += [misses.summary(name, rtol, table) for rtol, table in tables.items()]
    print_rows(rows)


def solve_training(
    name: str, tolerances: tuple[float, ...], num_operators: int = NUM_OPERATORS
) -> dict[float, pd.DataFrame]:
    """Solve along a training at several tolerances, with the columns of `misses.solve_cold`.

    Returns:
        For each tolerance, a row for each solve after the first.
    """
    trackers = {r: EigenpairTracker("lanczos", r, misses.LIMIT) for r in tolerances}
    rows: dict[float, list[tuple]] = {rtol: [] for rtol in tolerances}
    operators = TRAININGS[name].operators(num_operators)
    for step, (matvec, size) in enumerate(operators):
        largest = largest_eigenvalue(matvec, size)
        for rtol, tracker in trackers.items():
            result = tracker.solve("A", matvec, tf.zeros([size]), 1, step, follow=True)
            if step:
                rows[rtol].append((name, *misses.judged(result, np.array([largest]))))
    return {rtol: misses.as_table(rows[rtol]) for rtol in tolerances}


def largest_eigenvalue(matvec: Matvec, size: int) -> float:
    """The largest eigenvalue by a long textbook Lanczos run from a random start."""
    start = np.random.default_rng(0).standard_normal(size)
    matrix, _ = tridiagonal(
        lambda v: matvec(tf.constant(v, tf.float32)).numpy(), start, _NUM_REFERENCE_STEPS
    )
    return float(np.linalg.eigvalsh(matrix)[-1])


def fully_connected() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Two hidden layers on the digits of scikit-learn."""
    x, y = _digits()
    hidden = [layers.Dense(width, "tanh") for width in (12, 10)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)]), x, y


def convolutional() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Two convolutions on the digits."""
    x, y = _digits()
    stack = [
        layers.Reshape((8, 8, 1)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(12, 2, activation="relu"),
        layers.Flatten(),
    ]
    return keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10)]), x, y


def transformer(
    num_examples: int = NUM_EXAMPLES,
) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """One pre-normalised block that predicts the next character of numbers in words."""
    text = " ".join(source for source, _ in number_words.pairs("en", "de", "train"))
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text[: num_examples * _LENGTH + 1]])
    shape = num_examples, _LENGTH
    inputs = keras.Input((_LENGTH,), dtype="int32")
    x = layers.Embedding(len(characters), _WIDTH)(inputs)
    normalised = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 4)(normalised, normalised, use_causal_mask=True)
    hidden = layers.Dense(2 * _WIDTH, "gelu")(layers.LayerNormalization()(x))
    outputs = layers.Dense(len(characters))(x + layers.Dense(_WIDTH)(hidden))
    return keras.Model(inputs, outputs), codes[:-1].reshape(shape), codes[1:].reshape(shape)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    examples, _ = images.load(schema.Data(name="digits", num_examples=NUM_EXAMPLES))
    return examples.inputs.reshape(NUM_EXAMPLES, -1), examples.labels


# Gradient descent stays at its edge of 2/η, where the squared error keeps the sharpness up.
TRAININGS = {
    "fully connected, Adam, large rate": Training(
        fully_connected, lambda: optimizers.Adam(3e-2), NUM_EXAMPLES
    ),
    "fully connected, Adam, small rate": Training(
        fully_connected, lambda: optimizers.Adam(3e-4), NUM_EXAMPLES
    ),
    "fully connected, Adam, batches of 40": Training(
        fully_connected, lambda: optimizers.Adam(1e-3), 40
    ),
    "fully connected, gradient descent, edge": Training(
        fully_connected, lambda: optimizers.GradientDescent(1.0), NUM_EXAMPLES, squared=True
    ),
    "convolutional, Adam, large rate": Training(
        convolutional, lambda: optimizers.Adam(3e-2), NUM_EXAMPLES
    ),
    "convolutional, RMSprop, batches of 40": Training(
        convolutional, lambda: optimizers.RMSprop(1e-3), 40
    ),
    "transformer, Adam, large rate": Training(
        transformer, lambda: optimizers.Adam(1e-2), NUM_EXAMPLES
    ),
    "transformer, Adam, batches of 40": Training(transformer, lambda: optimizers.Adam(3e-3), 40),
}
