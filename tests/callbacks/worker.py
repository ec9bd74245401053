"""A worker of a test: trains in a loop of its own and prints the rows of its monitors.

    python -m tests.callbacks.worker

`TF_CONFIG` makes it one of several; without it, it trains alone on the examples of all.
"""

import json
import os
import sys
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_aeos import AEoSMonitor, Eigensolver

ROWS, NUM_WORKERS, NUM_UPDATES = 24, 2, 12
QUANTITIES = [
    *("sharpness", "gradient_norm_squared", "update_curvature", "alignment", "trace"),
    *("batch_sharpness", "preconditioned_batch_sharpness"),
    *("critical_learning_rate", "layer_sharpness"),
]


def main() -> None:
    """Train for some full-batch updates, and print the rows as JSON."""
    several = "TF_CONFIG" in os.environ
    # Before anything else: it starts the server of this worker.
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    )
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 4)).astype("float32")
    y = generator.standard_normal((ROWS, 3)).astype("float32")
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, "tanh", kernel_regularizer="l2"),
                layers.Dense(3),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def update(x: tf.Tensor, y: tf.Tensor) -> None:
        def on_replica(x: tf.Tensor, y: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x, y, model(x, training=True))
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            model.optimizer.apply(gradients, model.trainable_variables)

        strategy.run(on_replica, args=(x, y))

    begin = strategy.cluster_resolver.task_id if several else 0
    share = slice(begin, None, NUM_WORKERS if several else None)
    with tempfile.TemporaryDirectory() as directory:
        monitor = AEoSMonitor(
            (x, y),
            update_freq=4,
            quantities=QUANTITIES,
            solver=Eigensolver(rtol=1e-4),
            batch_size=6,
            log_dir=f"{directory}/given",
        )
        automatic = AEoSMonitor((x, y), max_overhead=0.5, log_dir=f"{directory}/auto")
        callbacks = keras.callbacks.CallbackList([monitor, automatic], model=model)
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0)
        for batch in range(NUM_UPDATES):
            callbacks.on_train_batch_begin(batch)
            update(x[share], y[share])
            callbacks.on_train_batch_end(batch)
        callbacks.on_epoch_end(0)
        callbacks.on_train_end()
        written = os.path.exists(f"{directory}/given/metrics.csv")
    rows = monitor.history.drop(columns=["seconds", "overhead"])
    result = {
        "rows": rows.to_dict("list"),
        "automatic": automatic.history["step"].tolist(),
        "written": written,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
