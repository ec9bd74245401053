"""A full batch that stays on the devices on which the network trains."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_aeos.curvature.device_memory import is_host, room


def resident(parts: Sequence[tf.Tensor], strategy: tf.distribute.Strategy) -> Any | None:
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
    size = sum(part.dtype.size * part.shape.num_elements() for part in parts) // num_replicas
    if any(not is_host(device) and size > room(device) for device in _devices(strategy)):
        return None

    def piece() -> tuple[tf.Tensor, ...]:
        if num_replicas == 1:
            return tuple(tf.identity(part) for part in parts)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tuple(_cut(part, num_replicas)[:, replica] for part in parts)

    return tf.function(lambda: strategy.run(piece), autograph=False)()


def _cut(part: tf.Tensor, num_replicas: int) -> tf.Tensor:
    """Tensor (micro-batches, replicas, size / replicas, ...)."""
    number, size, *example = part.shape
    return tf.reshape(part, [number, num_replicas, size // num_replicas, *example])


def _devices(strategy: tf.distribute.Strategy) -> Sequence[str]:
    """The devices of this process on which the replicas are."""
    if strategy.num_replicas_in_sync == 1:
        return (tf.zeros([]).device,)
    return strategy.extended.worker_devices
