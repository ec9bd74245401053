"""The strategies of `tf.distribute` that tests run under, on one device and on several."""

import contextlib
import functools
import socket

import pytest
import tensorflow as tf

# Number of logical CPU devices, see `tests/conftest.py`; None for no strategy.
REPLICAS = {"none": None, "one device": 1, "mirrored 2": 2, "mirrored 4": 4}
# A test that takes a `strategy`, the name of one, runs under each.
under_each = pytest.mark.parametrize("strategy", REPLICAS)


def num_replicas(name):
    """Number of devices that share the work under a strategy."""
    return REPLICAS[name] or 1


@functools.cache
def strategy_of(name):
    """The strategy of a name; one for all tests, whose collectives TensorFlow numbers.

    It gives two strategies of a process the same numbers, so only one of them uses collectives.
    """
    if name == "one device":
        return tf.distribute.OneDeviceStrategy("CPU:1")
    devices = [f"CPU:{index}" for index in range(num_replicas(name))]
    reduction = None if name == "mirrored 2" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, reduction)


def scope(name):
    """The scope of a strategy, in which models are made."""
    return contextlib.nullcontext() if name == "none" else strategy_of(name).scope()


def free_ports(number):
    """Ports of this machine that nobody uses now, for the workers of a cluster."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
