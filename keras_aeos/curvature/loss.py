"""The training loss of a Keras model on a batch, at given values of its variables."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import Nest

# Maps a model and a batch ``(x, y, sample_weight)`` to a scalar loss.
LossFunction = Callable[[Any, Nest], tf.Tensor]


def training_loss(
    model: keras.Model,
    batch: Nest,
    state: Iterable[tuple[keras.Variable, tf.Tensor]],
    loss: LossFunction | None = None,
) -> tf.Tensor:
    """The training loss of a batch, without side effects on the model.

    Args:
        model: A built and compiled Keras model.
        batch: The batch ``(x, y, sample_weight)``.
        state: Pairs of variables and the values that stand for theirs.
        loss: Function of the model and the batch; None (default) for the loss of `compile`.

    Returns:
        A scalar.
    """
    x, y, sample_weight = batch
    with keras.StatelessScope(state_mapping=list(state), collect_losses=True):
        if loss is not None:
            return tf.convert_to_tensor(loss(model, batch))
        training = {"training": True} if model._call_has_training_arg else {}
        value = model._compute_loss(
            x=x,
            y=y,
            y_pred=model(x, **training),
            sample_weight=sample_weight,
            training=True,
        )
    # Keras divides by the number of replicas, to sum over them later; here there is just one.
    return value * float(tf.distribute.get_strategy().num_replicas_in_sync)


def seeds_of_batch(model: keras.Model, index: tf.Tensor) -> list[tuple[keras.Variable, tf.Tensor]]:
    """The model's seeds, each with a state of its own for micro-batch number `index`."""
    variables = model.non_trainable_variables
    seeds = [v for v in variables if v.path.endswith("seed_generator_state")]
    return [(variable, _seed_of_batch(variable, index)) for variable in seeds]


def _seed_of_batch(variable: keras.Variable, index: tf.Tensor) -> tf.Tensor:
    """A seed state of its own for each micro-batch: (seed, counter) with the counter moved on."""
    state = tf.convert_to_tensor(variable.value)
    return state + tf.cast(tf.stack([tf.zeros_like(index), index * 65_536]), state.dtype)
