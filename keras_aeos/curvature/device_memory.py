"""How much memory of a device measurements may fill with examples and intermediate values."""

import os
from pathlib import Path

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.eager import context

from keras_aeos import constraints

_DEFAULT_SHARE = 0.5
# A host has other work than this process, and gains little: at most this much of it is filled with
# examples, and with intermediate values. The same where a device doesn't tell what it has.
_MODERATE = 2**30

_share = _DEFAULT_SHARE


def limit_memory(share: float = _DEFAULT_SHARE) -> None:
    """Set the share of a device's free memory that measurements may fill.

    Free is what the device holds beyond the peak of training so far. Half of the share is for the
    measured examples: those that fit stay on the device, the others are fetched for each product.
    The other half is for intermediate values, kept from product to product; where they don't fit,
    they are computed again. Of a host's memory each half is 1 GiB at most.

    Args:
        share: Number between 0 and 1, 0.5 by default. It holds for the process, for what is
            measured from now on.

    Raises:
        ValueError: If `share` is out of range.

    Example:
        >>> limit_memory(0.2)
        >>> limit_memory()
    """
    global _share
    constraints.check(share=share)
    _share = share


def room(device: str) -> int:
    """Bytes of a device for examples, and as many for intermediate values."""
    if is_host(device):
        return min(int(_share / 2 * _available_on_host()), _MODERATE)
    total = _size(device)
    if not total:
        return _MODERATE
    spec = tf.DeviceSpec.from_string(device)
    used = tf.config.experimental.get_memory_info(f"{spec.device_type}:{spec.device_index}")
    return max(0, int(_share / 2 * (total - used["peak"])))


def is_host(device: str) -> bool:
    """Whether a device is the CPU, whose memory is that of the host."""
    return tf.DeviceSpec.from_string(device).device_type == "CPU"


def _size(device: str) -> int:
    """Bytes that TensorFlow may allocate on a device; 0 if it doesn't say."""
    devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
    for index in range(pywrap_tf_session.TF_DeviceListCount(devices)):
        if pywrap_tf_session.TF_DeviceListName(devices, index) == device:
            return pywrap_tf_session.TF_DeviceListMemoryBytes(devices, index)
    return 0


def _available_on_host() -> int:
    """Bytes that the host can give without swapping; all that it has where it doesn't say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
