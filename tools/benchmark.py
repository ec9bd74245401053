"""What curvature costs, as ratios within one run.

python tools/benchmark.py

For each model prints the cost of a Hessian-vector product in gradients, of going through the data
in micro-batches against one batch, and of a whole solve against its products alone.
"""

import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.lanczos import lanczos
from keras_aeos.curvature.objective import Objective

NUM_REPEATS = 5


def fully_connected() -> tuple[keras.Model, int]:
    """Five hidden layers of 200 units on CIFAR-10's shape; 5,000 examples."""
    hidden = [layers.Dense(200, "tanh") for _ in range(5)]
    return keras.Sequential([keras.Input((3072,)), *hidden, layers.Dense(10)]), 5000


def convolutional() -> tuple[keras.Model, int]:
    """Two convolutions on CIFAR-10's shape; 500 examples."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    ), 500


def batch_normalised() -> tuple[keras.Model, int]:
    """Two convolutions, each followed by BatchNorm, on CIFAR-10's shape; 500 examples."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(16, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    ), 500


def measure(model: keras.Model, num_examples: int) -> dict[str, float]:
    """The ratios of one model on random data."""
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((num_examples, *model.input_shape[1:]), dtype=np.float32)
    data = (x, generator.integers(0, 10, num_examples))
    whole, split = (
        Objective(model, from_data(data, size)) for size in (num_examples, num_examples // 5)
    )
    ones = tf.ones([whole.num_parameters], whole.dtype)
    times: dict[str, list[float]] = {"gradient": [], "product": [], "split": []}
    calls = {
        "gradient": whole.loss_and_gradient,
        "product": lambda: whole.hessian_product(ones, ones),
        "split": lambda: split.hessian_product(ones, ones),
    }
    for repeat in range(NUM_REPEATS + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if repeat:  # the first call traces
                times[name].append(time.perf_counter() - began)
    gradient, product, in_parts = (statistics.median(times[name]) for name in calls)

    products: list[float] = []

    def matvec(vector: tf.Tensor) -> tf.Tensor:
        began = time.perf_counter()
        result = whole.hessian_product(vector, ones)
        products.append(time.perf_counter() - began)
        return result

    began = time.perf_counter()
    lanczos(matvec, tf.zeros([0, whole.num_parameters], whole.dtype), 1, 1e-3, 100)
    seconds = time.perf_counter() - began
    return {
        "product / gradient": product / gradient,
        "5 micro-batches / 1 batch": in_parts / product,
        "solve / its products": seconds / sum(products),
        "products, cold to 1e-3": len(products),
    }


def main() -> None:
    """Print one row a model, as a Markdown table."""
    keras.utils.set_random_seed(0)
    for index, build in enumerate((fully_connected, convolutional, batch_normalised)):
        ratios = measure(*build())
        if index == 0:
            print("| model | " + " | ".join(ratios) + " |")
            print("| --- " * (len(ratios) + 1) + "|")
        print(f"| {build.__name__} | " + " | ".join(f"{v:.3g}" for v in ratios.values()) + " |")


if __name__ == "__main__":
    main()
