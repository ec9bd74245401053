"""The networks whose trainings are watched, and what they learn: small, so that many fit in."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainers import schema
from trainers.data import images, parallel_text
from trainers.data.vocabulary import BEGIN, END, PADDING, learn
from trainers.models import transformer, wide_resnet

NUM_EXAMPLES = 1536
# Subwords of both languages.
_VOCABULARY = 500


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its examples.

    Attributes:
        build: Function that returns the model; its weights follow from
            `keras.utils.set_random_seed`.
        examples: Function that returns inputs, labels and weights of the labels or None.
        loss: Function that returns the loss, which is a mean over examples, or a sum of labels
            whose weights add up to 1.
        batch_norm: Whether the loss of an example depends on the others of the batch.
        full_batch: Examples of a full batch; in mini-batches, those that a row is measured on.
        mini_batch: Examples of a mini-batch.
    """

    build: Callable[[], keras.Model]
    examples: Callable[[], tuple[Any, np.ndarray, np.ndarray | None]]
    loss: Callable[[], keras.losses.Loss]
    batch_norm: bool = False
    full_batch: int = 128
    mini_batch: int = 32


def fully_connected() -> keras.Model:
    """Three hidden layers of 48 ReLUs."""
    hidden = [layers.Dense(48, "relu", kernel_initializer="he_normal") for _ in range(3)]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def saturating() -> keras.Model:
    """Two hidden layers of 48 tanh units."""
    hidden = [layers.Dense(48, "tanh") for _ in range(2)]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def convolutional() -> keras.Model:
    """Two convolutions with max pooling."""
    stack = [
        layers.Conv2D(8, 3, activation="relu", kernel_initializer="he_normal"),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 2, activation="relu", kernel_initializer="he_normal"),
        layers.Flatten(),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Dense(10)])


def residual(batch_norm: bool) -> keras.Model:
    """The wide residual network of the trainers at its smallest."""
    sizes = schema.WideResNet(
        name="wide_resnet",
        blocks_per_group=1,
        multiplier=1,
        filters=8,
        stem_stride=4,
        batch_norm=batch_norm,
    )
    data = schema.Data(name="cifar10")
    seed = int(np.asarray(keras.random.randint((), 0, 2**30)))
    return wide_resnet.build_model(schema.Config(model=sizes, data=data, seed=seed))


def translating(norm: str) -> keras.Model:
    """The Transformer of the trainers with one layer of width 32 in encoder and decoder."""
    sizes = schema.Transformer(
        name="transformer", norm=norm, num_layers=1, dim=32, heads=2, hidden=64, dropout=0.0
    )
    return transformer.build_model(schema.Config(model=sizes), _VOCABULARY)


def digits() -> tuple[np.ndarray, np.ndarray, None]:
    """The digits of scikit-learn."""
    return _images("digits")


def squared_digits() -> tuple[np.ndarray, np.ndarray, None]:
    """The digits with labels for the squared error."""
    x, y, _ = _images("digits")
    return x, np.eye(10, dtype=np.float32)[y], None


def cifar10() -> tuple[np.ndarray, np.ndarray, None]:
    """Images of CIFAR-10."""
    return _images("cifar10")


@functools.cache
def multi30k() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """The shortest captions of Multi30k in English, and their translations into German."""
    pairs = parallel_text.read(schema.Translation(name="multi30k_translate"), "train")
    with tempfile.TemporaryDirectory() as directory:
        sentences = [sentence for pair in pairs for sentence in pair]
        vocabulary = learn(sentences, "bpe", _VOCABULARY, Path(directory))
    sides = [vocabulary.encode([pair[side] for pair in pairs]) for side in (0, 1)]
    lengths = np.stack([side.row_lengths().numpy() for side in sides])
    chosen = np.argsort(lengths.max(axis=0), kind="stable")[:NUM_EXAMPLES]
    chosen = np.random.default_rng(0).permutation(chosen)
    rows = [tf.gather(side, chosen).to_list() for side in sides]
    source = _padded([[*tokens, END] for tokens in rows[0]])
    target = _padded([[BEGIN, *tokens] for tokens in rows[1]])
    labels = _padded([[*tokens, END] for tokens in rows[1]])
    return (source, target), labels, (labels != PADDING).astype(np.float32)


def _padded(rows: list[list[int]]) -> np.ndarray:
    length = max(map(len, rows))
    return np.array([row + [PADDING] * (length - len(row)) for row in rows], np.int32)


def _images(name: str) -> tuple[np.ndarray, np.ndarray, None]:
    examples, _ = images.load(schema.Data(name=name, num_examples=NUM_EXAMPLES))
    return examples.inputs, examples.labels, None


def _cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _residual(batch_norm: bool) -> Network:
    return Network(
        lambda: residual(batch_norm),
        cifar10,
        _cross_entropy,
        batch_norm=batch_norm,
        full_batch=64,
        mini_batch=16,
    )


def _transformer(norm: str) -> Network:
    return Network(
        lambda: translating(norm),
        multi30k,
        transformer.TokenCrossEntropy,
        full_batch=64,
        mini_batch=16,
    )


NETWORKS: dict[str, Network] = {
    "fully connected": Network(fully_connected, digits, _cross_entropy),
    "squared error": Network(saturating, squared_digits, keras.losses.MeanSquaredError),
    "convolutional": Network(convolutional, digits, _cross_entropy),
    "wide ResNet": _residual(False),
    "wide ResNet, BatchNorm": _residual(True),
    "Transformer, Pre-LN": _transformer("pre"),
    "Transformer, Post-LN": _transformer("post"),
}
