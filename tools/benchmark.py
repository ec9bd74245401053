"""What curvature and the optimizers cost, as ratios within one run.

    python tools/benchmark.py curvature
    python tools/benchmark.py optimizers

`curvature` prints for each model the cost of a Hessian-vector product in gradients, of going
through the data in micro-batches against one batch, and of a whole solve against its products
alone. `optimizers` prints for each optimizer the time of an update against that of the Keras
optimizer of the same name.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos import optimizers
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.lanczos import lanczos
from keras_aeos.curvature.objective import Objective

NUM_REPEATS = 5
NUM_UPDATE_PAIRS = 200

# ours against the stock one of the same name and settings
STOCK: dict[str, tuple[Callable, Callable]] = {
    "GradientDescent / SGD": (optimizers.GradientDescent, keras.optimizers.SGD),
    "HeavyBall / SGD(momentum)": (
        optimizers.HeavyBall,
        lambda: keras.optimizers.SGD(momentum=0.9),
    ),
    "Nesterov / SGD(nesterov)": (
        optimizers.Nesterov,
        lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True),
    ),
    "RMSprop": (optimizers.RMSprop, keras.optimizers.RMSprop),
    "Adagrad": (optimizers.Adagrad, keras.optimizers.Adagrad),
    "Adam": (optimizers.Adam, keras.optimizers.Adam),
    "AdamW": (optimizers.AdamW, keras.optimizers.AdamW),
    "AMSGrad / Adam(amsgrad)": (
        lambda: optimizers.AMSGrad(bias_correction=True),
        lambda: keras.optimizers.Adam(amsgrad=True),
    ),
    "Nadam": (lambda: optimizers.Nadam(bias_correction=True), keras.optimizers.Nadam),
    "Adafactor": (
        lambda: optimizers.Adafactor(beta_1=0.0, clip_threshold=1.0, parameter_scaling=True),
        keras.optimizers.Adafactor,
    ),
}


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


def compare_updates(ours: Callable, stock: Callable) -> float:
    """Median ratio of the times of an update, pair by pair, on the fully connected network."""
    generator = np.random.default_rng(0)
    shapes = [v.shape for v in fully_connected()[0].trainable_variables]
    gradients = [tf.constant(generator.standard_normal(s), tf.float32) for s in shapes]

    def updater(optimizer: keras.optimizers.Optimizer) -> Callable:
        variables = [keras.Variable(g) for g in gradients]
        optimizer.build(variables)
        return tf.function(lambda: optimizer.apply(gradients, variables))

    updates = updater(ours()), updater(stock())
    ratios = []
    for pair in range(NUM_UPDATE_PAIRS):
        seconds = []
        for update in updates if pair % 2 else reversed(updates):
            began = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1] if pair % 2 else seconds[1] / seconds[0])
    # The first pairs trace.
    return statistics.median(ratios[10:])


def compare_optimizers() -> None:
    """Print one row an optimizer, as a Markdown table."""
    print("| optimizer | update / stock update |\n| --- | --- |")
    for name, (ours, stock) in STOCK.items():
        print(f"| {name} | {compare_updates(ours, stock):.2f} |", flush=True)


def measure_curvature() -> None:
    """Print one row a model, as a Markdown table."""
    for index, build in enumerate((fully_connected, convolutional, batch_normalised)):
        ratios = measure(*build())
        if index == 0:
            print("| model | " + " | ".join(ratios) + " |")
            print("| --- " * (len(ratios) + 1) + "|")
        print(f"| {build.__name__} | " + " | ".join(f"{v:.3g}" for v in ratios.values()) + " |")


def main() -> None:
    """Run the part that the command line names."""
    parts = {"curvature": measure_curvature, "optimizers": compare_optimizers}
    parser = argparse.ArgumentParser(prog="python tools/benchmark.py", description=__doc__)
    parser.add_argument("part", choices=parts)
    keras.utils.set_random_seed(0)
    parts[parser.parse_args().part]()


if __name__ == "__main__":
    main()
