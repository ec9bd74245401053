"""The errors of stock second derivatives, and of those that a measurement uses.

Both are compared with central differences of the gradient, in float64.
"""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.second_derivatives import exact_second_derivatives
from tools.benchmarking.tables import print_rows

Shape = tuple[int, ...]
SIGNAL, IMAGE = (8, 6), (6, 6, 4)
# name: layer, and the shape of its input
LAYERS: dict[str, tuple[Callable[[], keras.layers.Layer], Shape]] = {
    "BatchNormalization": (lambda: layers.BatchNormalization(), IMAGE),
    "LayerNormalization": (lambda: layers.LayerNormalization(), SIGNAL),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), IMAGE),
    "RMSNormalization": (lambda: layers.RMSNormalization(), SIGNAL),
    "UnitNormalization": (lambda: layers.UnitNormalization(), SIGNAL),
    "MaxPooling2D(3, 1, 'same')": (lambda: layers.MaxPooling2D(3, 1, "same"), IMAGE),
    "MaxPooling2D(2)": (lambda: layers.MaxPooling2D(2), IMAGE),
    "UpSampling2D('bilinear')": (lambda: layers.UpSampling2D(2, None, "bilinear"), IMAGE),
    "UpSampling2D('nearest')": (lambda: layers.UpSampling2D(2), IMAGE),
    "UpSampling2D('bicubic')": (lambda: layers.UpSampling2D(2, None, "bicubic"), IMAGE),
    "Activation('softsign')": (lambda: layers.Activation("softsign"), SIGNAL),
    "LSTM": (lambda: layers.LSTM(4), SIGNAL),
    "Conv2D": (lambda: layers.Conv2D(4, 3), IMAGE),
}
NUM_EXAMPLES = 16


def print_tables() -> None:
    """Print the error of a product for each layer, then largest eigenvalues of small networks."""
    keras.config.set_floatx("float64")
    print_rows(_layers())
    print()
    print_rows(_eigenvalues())


def _model_with(layer: keras.layers.Layer, shape: Shape) -> keras.Model:
    """A small network that contains a layer."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Dense(shape[-1]),
            layer,
            layers.Activation("tanh"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


class Loss:
    """The cross-entropy of a model on random data, as a function of its flat parameters."""

    def __init__(self, model: keras.Model) -> None:
        generator = np.random.default_rng(0)
        self.variables = model.trainable_variables
        sizes = [v.numpy().size for v in self.variables]
        self.point = np.concatenate([np.ravel(v.numpy()) for v in self.variables])
        x = tf.constant(generator.standard_normal((NUM_EXAMPLES, *model.input_shape[1:])))
        y = tf.one_hot(generator.integers(0, 3, NUM_EXAMPLES), 3, dtype=tf.float64)

        def gradient(parameters: tf.Tensor) -> tf.Tensor:
            parts = tf.split(parameters, sizes)
            values = [tf.reshape(p, v.shape) for p, v in zip(parts, self.variables, strict=True)]
            with tf.GradientTape() as tape:
                tape.watch(values)
                state = list(zip(self.variables, values, strict=True))
                with keras.StatelessScope(state_mapping=state):
                    logits = model(x, training=True)
                loss = tf.nn.softmax_cross_entropy_with_logits(y, logits)
                loss = tf.reduce_mean(loss)
            return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, values)], 0)

        self.gradient = tf.function(gradient, autograph=False)
        self.products = {}
        for name, context in (
            ("stock", contextlib.nullcontext),
            ("measured", exact_second_derivatives),
        ):
            self.products[name] = tf.function(self._product(gradient, context), autograph=False)

    @staticmethod
    def _product(
        gradient: Callable[[tf.Tensor], tf.Tensor],
        context: Callable[[], contextlib.AbstractContextManager],
    ) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        def product(parameters: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
            with context(), tf.GradientTape() as tape:
                tape.watch(parameters)
                first = gradient(parameters)
                return tape.gradient(first, parameters, output_gradients=vector)

        return product

    def product(self, name: str, vector: np.ndarray) -> np.ndarray:
        """Multiply the Hessian by a vector with two tapes, "stock" or "measured"."""
        return self.products[name](tf.constant(self.point), tf.constant(vector)).numpy()

    def difference(self, vector: np.ndarray, step: float) -> np.ndarray:
        """Multiply the Hessian by a vector with central differences of fourth order."""

        def at(factor: int) -> np.ndarray:
            return self.gradient(tf.constant(self.point + factor * step * vector)).numpy()

        return (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * step)


def _error(loss: Loss, name: str, vector: np.ndarray) -> str:
    """Relative error of a product, by the better of two steps of the differences.

    The small step is for layers with kinks, the large one for what TensorFlow computes in float32.
    """
    try:
        product = loss.product(name, vector)
    except LookupError:
        return "missing"
    differences = [loss.difference(vector, step) for step in (1e-6, 1e-3)]
    errors = [np.linalg.norm(product - d) / np.linalg.norm(d) for d in differences]
    return f"{min(errors):.0e}"


def _layers() -> Iterator[dict[str, str]]:
    """A row for each layer: the errors of a product, stock and measured."""
    for name, (make, shape) in LAYERS.items():
        keras.utils.set_random_seed(0)
        loss = Loss(_model_with(make(), shape))
        vector = np.random.default_rng(1).standard_normal(loss.point.size)
        yield {"layer": name, **{kind: _error(loss, kind, vector) for kind in loss.products}}


def _normalised(make: Callable[[], keras.layers.Layer], num_layers: int) -> keras.Model:
    """A fully connected network with a normalisation after each hidden layer."""
    model = keras.Sequential([keras.Input((8,))])
    for _ in range(num_layers):
        model.add(layers.Dense(8))
        model.add(make())
        model.add(layers.Activation("tanh"))
    model.add(layers.Dense(3))
    return model


def _eigenvalues() -> Iterator[dict[str, str]]:
    """A row for each network: its largest eigenvalue at initialisation, by dense Hessians."""
    for name in ("BatchNormalization", "LayerNormalization", "GroupNormalization"):
        for num_layers in (1, 2, 4):
            keras.utils.set_random_seed(0)
            loss = Loss(_normalised(LAYERS[name][0], num_layers))
            unit = np.eye(loss.point.size)
            hessians = {
                kind: np.array([loss.product(kind, vector) for vector in unit])
                for kind in loss.products
            }
            hessians["differences"] = np.array([loss.difference(vector, 1e-3) for vector in unit])
            values = {kind: np.linalg.eigvalsh((h + h.T) / 2.0)[-1] for kind, h in hessians.items()}
            yield {
                "network": f"{num_layers} × {name}",
                **{kind: f"{value:.6f}" for kind, value in values.items()},
            }
