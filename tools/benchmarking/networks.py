"""Networks for benchmarks, and the examples on which they are measured."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos import optimizers
from trainers import schema
from trainers.data import images, number_words
from trainers.errors import UserError

# Rows of a micro-batch of the networks that don't fit into a laptop's memory in one.
_LAPTOP_BATCH_SIZES = {"resnet50": 8, "transformer_6": 4}


def fully_connected() -> tuple[keras.Model, int]:
    """Five hidden layers of 200 units on CIFAR-10's shape; 5,000 examples."""
    hidden = [layers.Dense(200, "tanh") for _ in range(5)]
    return keras.Sequential([keras.Input((3072,)), *hidden, layers.Dense(10)]), 5000


def fully_connected_50000() -> tuple[keras.Model, int]:
    """The same network; 50,000 examples."""
    return fully_connected()[0], 50_000


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


def convolutional_5000() -> tuple[keras.Model, int]:
    """The same network; 5,000 examples."""
    return convolutional()[0], 5000


def transformer() -> tuple[keras.Model, int]:
    """One pre-normalised block of width 128 on 64 tokens, with 1,000 classes; 32 sequences."""
    inputs = keras.Input((64, 128))
    return keras.Model(inputs, layers.Dense(1000)(_block(inputs, 4, 32))), 32


def transformer_6() -> tuple[keras.Model, int]:
    """Six causal blocks of width 512 on 256 tokens, with 1,000 classes; 16 sequences."""
    inputs = x = keras.Input((256, 512))
    for _ in range(6):
        x = _block(x, 8, 64, causal=True)
    return keras.Model(inputs, layers.Dense(1000)(layers.LayerNormalization()(x))), 16


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


def resnet50() -> tuple[keras.Model, int]:
    """ResNet-50 on images of 224 × 224 pixels, with 1,000 classes; 64 images."""
    return keras.applications.ResNet50(weights=None, classifier_activation=None), 64


def _block(x: Any, num_heads: int, size: int, causal: bool = False) -> Any:
    """Pre-normalised attention, and a hidden layer of four times the width."""
    width = x.shape[-1]
    normalised = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(num_heads, size)
    x = x + attention(normalised, normalised, use_causal_mask=causal)
    hidden = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
    return x + layers.Dense(width)(hidden)


NETWORKS: dict[str, Callable[[], tuple[keras.Model, int]]] = {
    build.__name__: build
    for build in (
        fully_connected,
        fully_connected_50000,
        convolutional,
        convolutional_5000,
        transformer,
        transformer_6,
        residual,
        resnet50,
    )
}
LAPTOP = ("fully_connected", "convolutional", "transformer", "residual")
GPU = (
    "fully_connected",
    "fully_connected_50000",
    "convolutional_5000",
    "transformer_6",
    "resnet50",
)


def usual() -> Sequence[str]:
    """Names of the networks that are measured unless others are asked for."""
    return GPU if tf.config.list_physical_devices("GPU") else LAPTOP


def batch_size(name: str, num_examples: int) -> int:
    """Rows of a micro-batch: all examples, or fewer where these exceed a laptop's memory."""
    if tf.config.list_physical_devices("GPU"):
        return num_examples
    return _LAPTOP_BATCH_SIZES.get(name, num_examples)


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


def available_examples(model: keras.Model, num_examples: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Natural examples where there are any, otherwise random ones.

    Returns:
        The kind, "natural" or "random", the inputs and the labels.
    """
    if model.input_shape[1:] != (224, 224, 3):  # nothing comes with images of that size
        with contextlib.suppress(UserError):
            return "natural", *natural_examples(model, num_examples)
    return "random", *random_examples(model, num_examples)


def _characters(num_sequences: int, length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a text with one random vector per character, and the characters that follow."""
    text = " ".join(source for source, _ in number_words.pairs("en", "de", "train"))
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text[: num_sequences * length + 1]])
    vectors = np.random.default_rng(0).standard_normal((len(characters), width), dtype=np.float32)
    shape = num_sequences, length
    return vectors[codes[:-1].reshape(shape)], codes[1:].reshape(shape)


def compiled(name: str, examples: Callable = random_examples) -> tuple[Any, ...]:
    """Build a network with Adam, and its examples: `(model, *examples)`, the same in every call."""
    keras.utils.set_random_seed(0)
    model, num_examples = NETWORKS[name]()
    model.compile(
        optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model, *examples(model, num_examples)


def gradient(
    model: keras.Model, x: np.ndarray, y: np.ndarray, rows: int, jit_compile: bool = False
) -> Callable[[], list[tf.Tensor]]:
    """A function that computes the gradient of the training loss: the unit of the costs.

    It is computed as in a training step, on tensors that lie on the device.

    Args:
        model: A compiled model.
        x: Inputs (N, ...).
        y: Labels (N, ...).
        rows: Rows of a micro-batch.
        jit_compile: Whether XLA compiles it.
    """
    batches = [
        (tf.constant(x[begin : begin + rows]), tf.constant(y[begin : begin + rows]))
        for begin in range(0, len(x), rows)
    ]
    values = [variable.value for variable in model.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def of_batch(inputs: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True))
        return tape.gradient(loss, values)

    def call() -> list[tf.Tensor]:
        total = of_batch(*batches[0])
        for batch in batches[1:]:
            total = [a + b for a, b in zip(total, of_batch(*batch), strict=True)]
        return total

    return call
