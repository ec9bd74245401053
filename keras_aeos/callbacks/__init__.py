"""Keras callbacks."""

from keras_aeos.callbacks.freeze import FreezePreconditioner
from keras_aeos.callbacks.monitor import AEoSMonitor

__all__ = ["AEoSMonitor", "FreezePreconditioner"]
