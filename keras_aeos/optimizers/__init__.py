"""Optimizers that expose their preconditioner, and the lookup for those of Keras."""

from keras_aeos.optimizers import stock as _stock  # noqa: F401 - registers Keras's optimizers
from keras_aeos.optimizers.adafactor import Adafactor
from keras_aeos.optimizers.adagrad import Adagrad
from keras_aeos.optimizers.adam import Adam, AdamW, AMSGrad, Nadam, Padam
from keras_aeos.optimizers.frozen import FrozenAdam, save_second_moments
from keras_aeos.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from keras_aeos.optimizers.rmsprop import RMSprop

__all__ = [
    "AMSGrad",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "FrozenAdam",
    "GradientDescent",
    "HeavyBall",
    "Nadam",
    "Nesterov",
    "Padam",
    "RMSprop",
    "save_second_moments",
]
