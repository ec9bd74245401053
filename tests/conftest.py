"""Set-up of every test: the backend, four logical CPU devices, a fresh Keras for each test."""

import os

# Each of these is read once, when the library concerned is imported.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Off by default on some processors; grouped convolutions then have no gradient outside of XLA.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from collections.abc import Iterator

import hypothesis
import keras
import pytest
import tensorflow as tf

NUM_CPU_DEVICES = 4
# The same examples every time, however slow the machine.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")
SEED = 0


def _split_cpu(num_devices: int) -> None:
    """Makes one CPU appear as several devices; possible only before TensorFlow initialises."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(num_devices)]
    )


_split_cpu(NUM_CPU_DEVICES)


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    """Seeds every generator, and leaves neither layer names nor a float type to the next test."""
    keras.utils.set_random_seed(SEED)
    floatx = keras.config.floatx()
    yield
    keras.config.set_floatx(floatx)
    # Drops the dtype policy too. Collecting garbage here would cost more than most tests do.
    keras.utils.clear_session(free_memory=False)
