"""Layers as users write them, with operations that are corrected inside."""

import tensorflow as tf
from keras import layers

moments = tf.nn.moments


class Normalised(layers.Layer):
    """A user's layer with the moments of TensorFlow under a name of its own."""

    def call(self, x):
        mean, variance = moments(x, [0], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 0.1)


class Traced(layers.Layer):
    """A user's layer with a traced function of its own."""

    @tf.function
    def normalised(self, x):
        pooled = tf.nn.max_pool2d(x, 2, 1, "SAME")
        return pooled - tf.nn.moments(pooled, [1, 2], keepdims=True)[1]

    def call(self, x):
        return self.normalised(x)


class Residual(layers.Layer):
    """A normalised bottleneck and a way around it."""

    def __init__(self):
        super().__init__()
        self.norm, self.dense = layers.BatchNormalization(), layers.Dense(4, "gelu")

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x, training=None):
        return x + self.dense(self.norm(x, training=training))
