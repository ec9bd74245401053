"""Optimizers that expose their preconditioner, and the lookup for those of Keras."""

from keras_aeos.optimizers.adam import Adam
from keras_aeos.optimizers.gradient_descent import GradientDescent
from keras_aeos.optimizers.rmsprop import RMSprop

__all__ = ["Adam", "GradientDescent", "RMSprop"]
