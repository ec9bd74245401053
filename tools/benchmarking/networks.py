"""Networks for benchmarks, and the examples on which they are measured."""

from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_aeos import optimizers
from trainers import schema
from trainers.data import images, number_words


def fully_connected() -> tuple[keras.Model, int]:
    """Five hidden layers of 200 units on CIFAR-10's shape; 5,000 examples."""
    hidden = [layers.Dense(200, "tanh") for _ in range(5)]
    return keras.Sequential([keras.Input((3072,)), *hidden, layers.Dense(10)]), 5000


def convolutional() -> tuple[keras.Model, int]:
    """The paper's convolutional network on CIFAR-10's shape; 500 examples."""
    stack: list[keras.layers.Layer] = [keras.Input((32, 32, 3))]
    for filters, size, padding in ((64, 5, "valid"), (96, 3, "valid"), (128, 3, "same")):
        stack += [
            layers.Conv2D(filters, size, padding=padding, activation="relu"),
            layers.MaxPooling2D(3, 2),
        ]
    head = [layers.Dense(512, "relu"), layers.Dense(256, "relu"), layers.Dense(10)]
    return keras.Sequential([*stack, layers.Flatten(), *head]), 500


def transformer() -> tuple[keras.Model, int]:
    """One pre-normalised block of width 128 on 64 tokens, with 1,000 classes; 32 sequences."""
    inputs = x = keras.Input((64, 128))
    normalised = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(4, 32)(normalised, normalised)
    hidden = layers.Dense(512, "gelu")(layers.LayerNormalization()(x))
    x = x + layers.Dense(128)(hidden)
    return keras.Model(inputs, layers.Dense(1000)(x)), 32


def residual() -> tuple[keras.Model, int]:
    """Two residual blocks with BatchNorm on CIFAR-10's shape; 64 examples."""

    def activated(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 3, padding="same")(inputs)
    for filters in (32, 64):
        y = activated(x)
        shortcut = layers.Conv2D(filters, 1, strides=2)(y)
        y = activated(layers.Conv2D(filters, 3, strides=2, padding="same")(y))
        x = shortcut + layers.Conv2D(filters, 3, padding="same")(y)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(activated(x)))), 64


NETWORKS = (fully_connected, convolutional, transformer, residual)


def random_examples(model: keras.Model, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw normally distributed inputs, and labels of ten classes."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((num_examples, *model.input_shape[1:]), dtype=np.float32)
    return x, generator.integers(0, 10, (num_examples, *model.output_shape[1:-1]))


def natural_examples(model: keras.Model, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Load images of CIFAR-10 or, for sequences, text of which the next character is the label.

    Raises:
        UserError: CIFAR-10 is not on this machine.
    """
    if len(model.output_shape) == 3:
        return _characters(num_examples, *model.input_shape[1:])
    examples, _ = images.load(schema.Data(name="cifar10", num_examples=num_examples))
    return examples.inputs.reshape(num_examples, *model.input_shape[1:]), examples.labels


def _characters(num_sequences: int, length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a text with one random vector per character, and the characters that follow."""
    text = " ".join(source for source, _ in number_words.pairs("en", "de", "train"))
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text[: num_sequences * length + 1]])
    vectors = np.random.default_rng(0).standard_normal((len(characters), width), dtype=np.float32)
    shape = num_sequences, length
    return vectors[codes[:-1].reshape(shape)], codes[1:].reshape(shape)


def compiled(
    build: Callable, examples: Callable = random_examples
) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Build a network with Adam, and its examples: `(model, x, y)`, the same in every call."""
    keras.utils.set_random_seed(0)
    model, num_examples = build()
    model.compile(
        optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model, *examples(model, num_examples)
