"""The Hessians on which peers are compared, and references for their top eigenvalues."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import available_examples
from tools.benchmarking.reference_solvers import tridiagonal

NUM_REPEATS = 3
NUM_STEPS = 30
# Steps of the Lanczos runs that give the reference and the tuned settings.
NUM_REFERENCE_STEPS = 40


@dataclasses.dataclass
class Problem:
    """A network, its data, and start vectors for the solvers.

    Attributes:
        name: "fully_connected" or "convolutional".
        model: The Keras model.
        x: Inputs (N, ...), channels last.
        y: Labels (N,).
        starts: Start vectors (n,), one a repeat, parameters in Keras's order and layout.
    """

    name: str
    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    starts: list[np.ndarray]

    @property
    def weights(self) -> list[np.ndarray]:
        """Arrays of the trainable variables."""
        return [np.asarray(variable) for variable in self.model.trainable_variables]


def fully_connected(dtype: str = "float32") -> keras.Model:
    """Five hidden layers of 200 units on CIFAR-10's shape."""
    hidden = [layers.Dense(200, "tanh", dtype=dtype) for _ in range(5)]
    return keras.Sequential(
        [keras.Input((3072,), dtype=dtype), *hidden, layers.Dense(10, dtype=dtype)]
    )


def convolutional(dtype: str = "float32") -> keras.Model:
    """Two convolutions on CIFAR-10's shape."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype=dtype),
            layers.Conv2D(8, 3, activation="relu", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
            layers.Conv2D(16, 3, activation="relu", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
            layers.Flatten(dtype=dtype),
            layers.Dense(10, dtype=dtype),
        ]
    )


BUILDERS = {
    "fully_connected": (fully_connected, 5000),
    "fully_connected_50000": (fully_connected, 50_000),
    "convolutional": (convolutional, 500),
}


def compiled(model: keras.Model) -> keras.Model:
    """Compile a model with the cross-entropy and Adam."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def prepare(name: str) -> Problem:
    """Train a network for some steps of full-batch Adam, on CIFAR-10 where it has been prepared."""
    keras.utils.set_random_seed(0)
    build, num_examples = BUILDERS[name]
    model = compiled(build())
    _, x, y = available_examples(model, num_examples)
    y = y.astype(np.int64)  # PyTorch's cross-entropy takes no other integers
    model.fit(x, y, batch_size=num_examples, epochs=NUM_STEPS, shuffle=False, verbose=0)
    generator = np.random.default_rng(0)
    starts = [
        generator.standard_normal(model.count_params(), dtype=np.float32)
        for _ in range(NUM_REPEATS)
    ]
    return Problem(name, model, x, y, starts)


def refer(problem: Problem) -> tuple[float, float, list[np.ndarray]]:
    """Compute a reference: a Rayleigh quotient in float64 at the end of a long Lanczos run.

    Returns:
        The eigenvalue, the bound of its distance to the nearest eigenvalue relative to itself
        (the residual in float64), and the tridiagonal matrix of each start.
    """
    data = from_data((problem.x, problem.y), len(problem.x))
    hessian = Objective(problem.model, data).linearise()
    product = lambda v: hessian.hessian_product(tf.constant(v, tf.float32)).numpy()  # noqa: E731
    runs = [tridiagonal(product, start, NUM_REFERENCE_STEPS) for start in problem.starts]
    matrix, basis = runs[0]
    vector = basis.T @ np.linalg.eigh(matrix)[1][:, -1]

    double = compiled(BUILDERS[problem.name][0]("float64"))
    double.set_weights(problem.model.get_weights())
    data = from_data((problem.x.astype(np.float64), problem.y), len(problem.x))
    image = Objective(double, data).linearise().hessian_product(tf.constant(vector)).numpy()
    value = vector @ image / (vector @ vector)
    residual = np.linalg.norm(image - value * vector) / np.linalg.norm(vector) / value
    return float(value), float(residual), [matrix for matrix, _ in runs]
