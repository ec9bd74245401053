"""Keras callbacks, and the meter that they measure with."""

from keras_aeos.callbacks.alarm import Alarm, DivergenceAlarm
from keras_aeos.callbacks.freeze import FreezePreconditioner
from keras_aeos.callbacks.monitor import AEoSMonitor
from keras_aeos.callbacks.row import EdgeMeter
from keras_aeos.callbacks.warmup import CurvatureWarmup

__all__ = [
    "AEoSMonitor",
    "Alarm",
    "CurvatureWarmup",
    "DivergenceAlarm",
    "EdgeMeter",
    "FreezePreconditioner",
]
