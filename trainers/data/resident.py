"""A full batch that stays on the devices on which the network trains."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_aeos.curvature.device_memory import is_host, room


def resident(
    parts: Sequence[tf.Tensor], strategy: tf.distribute.Strategy
) -> tuple[Any, ...] | None:
    """The micro-batches of a full batch, brought to the devices once.

    They are the same tensors that a data set would bring, so the training is bit for bit the same.

    Args:
        parts: The inputs and the targets, tensors (micro-batches, size, ...) of the host.
        strategy: The strategy of training.

    Returns:
        For each part a tensor (micro-batches, size / replicas, ...) of each replica, on its device;
        None if they don't fit there.
    """
    num_replicas = strategy.num_replicas_in_sync
    devices = strategy.extended.worker_devices if num_replicas > 1 else (tf.zeros([]).device,)
    size = sum(part.dtype.size * part.shape.num_elements() for part in parts) // num_replicas
    if any(not is_host(device) and size > room(device) for device in devices):
        return None

    def of_replica(part: tf.Tensor, replica: int) -> tf.Tensor:
        if num_replicas > 1:
            number, size, *example = part.shape
            with tf.device("CPU:0"):
                pieces = tf.reshape(part, [number, num_replicas, size // num_replicas, *example])
                part = pieces[:, replica]
        with tf.device(devices[replica % len(devices)]):
            return tf.identity(part)

    return tuple(
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: of_replica(part, context.replica_id_in_sync_group)
        )
        for part in parts
    )
