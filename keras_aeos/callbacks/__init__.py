"""Keras callbacks, and the meter that they measure with."""

from keras_aeos.callbacks.alarm import Alarm, DivergenceAlarm
from keras_aeos.callbacks.freeze import FreezePreconditioner
from keras_aeos.callbacks.monitor import AEoSMonitor
from keras_aeos.callbacks.row import EdgeMeter

__all__ = ["AEoSMonitor", "Alarm", "DivergenceAlarm", "EdgeMeter", "FreezePreconditioner"]
