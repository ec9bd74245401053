"""Keras callbacks."""

from keras_aeos.callbacks.monitor import AEoSMonitor

__all__ = ["AEoSMonitor"]
