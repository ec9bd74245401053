"""How wrong stock second derivatives are, and how right those of a measurement.

    python tools/exactness.py

It prints the tables of docs/exactness.md: for layers, the error of a Hessian-vector product by two
gradient tapes as TensorFlow has them and as a measurement has them, against central differences of
the gradient; for a small network with normalisation, its largest eigenvalue by all three.
"""

import contextlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.second_derivatives import exact_second_derivatives

SIGNAL, IMAGE = (8, 6), (6, 6, 4)
LAYERS = {
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


def model_with(layer, shape):
    """A network with a layer in its midst."""
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

    def __init__(self, model):
        generator = np.random.default_rng(0)
        self.variables = model.trainable_variables
        sizes = [v.numpy().size for v in self.variables]
        self.point = np.concatenate([np.ravel(v.numpy()) for v in self.variables])
        x = tf.constant(generator.standard_normal((NUM_EXAMPLES, *model.input_shape[1:])))
        y = tf.one_hot(generator.integers(0, 3, NUM_EXAMPLES), 3, dtype=tf.float64)

        def gradient(parameters):
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
    def _product(gradient, context):
        def product(parameters, vector):
            with context(), tf.GradientTape() as tape:
                tape.watch(parameters)
                first = gradient(parameters)
                return tape.gradient(first, parameters, output_gradients=vector)

        return product

    def product(self, name, vector):
        """Hessian times a vector by two tapes, "stock" or "measured"."""
        return self.products[name](tf.constant(self.point), tf.constant(vector)).numpy()

    def difference(self, vector, step):
        """Hessian times a vector by central differences of fourth order."""

        def at(factor):
            return self.gradient(tf.constant(self.point + factor * step * vector)).numpy()

        return (8.0 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12.0 * step)


def error(loss, name, vector):
    """Relative error of a product against the differences, as text.

    It is that of the better of two steps, a small one for what has kinks, a large one for what
    TensorFlow computes in float32.
    """
    try:
        product = loss.product(name, vector)
    except LookupError:
        return "missing"
    differences = [loss.difference(vector, step) for step in (1e-6, 1e-3)]
    errors = [np.linalg.norm(product - d) / np.linalg.norm(d) for d in differences]
    return f"{min(errors):.0e}"


def print_layers():
    """One row a layer: the error of a product, stock and measured."""
    print("| layer | stock | measured |\n| --- | --- | --- |")
    for name, (make, shape) in LAYERS.items():
        keras.utils.set_random_seed(0)
        loss = Loss(model_with(make(), shape))
        vector = np.random.default_rng(1).standard_normal(loss.point.size)
        row = [error(loss, kind, vector) for kind in ("stock", "measured")]
        print(f"| {name} | {row[0]} | {row[1]} |", flush=True)


def normalised(make, num_layers):
    """A fully connected network with a normalisation after each hidden layer."""
    model = keras.Sequential([keras.Input((8,))])
    for _ in range(num_layers):
        model.add(layers.Dense(8))
        model.add(make())
        model.add(layers.Activation("tanh"))
    model.add(layers.Dense(3))
    return model


def print_eigenvalues():
    """One row a network: its largest eigenvalue at initialisation, by dense Hessians."""
    print("\n| network | stock | measured | differences |\n| --- | --- | --- | --- |")
    for name in ("BatchNormalization", "LayerNormalization", "GroupNormalization"):
        for num_layers in (1, 2, 4):
            keras.utils.set_random_seed(0)
            loss = Loss(normalised(LAYERS[name][0], num_layers))
            unit = np.eye(loss.point.size)
            hessians = [
                np.array([loss.product("stock", vector) for vector in unit]),
                np.array([loss.product("measured", vector) for vector in unit]),
                np.array([loss.difference(vector, 1e-3) for vector in unit]),
            ]
            values = [np.linalg.eigvalsh((h + h.T) / 2.0)[-1] for h in hessians]
            cells = " | ".join(f"{value:.6f}" for value in values)
            print(f"| {num_layers} × {name} | {cells} |", flush=True)


if __name__ == "__main__":
    keras.config.set_floatx("float64")
    print_layers()
    print_eigenvalues()
