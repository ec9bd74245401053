"""Tables that drive the tests: models with their data, and optimizers with what they claim."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_aeos.optimizers as ours

NUM_EXAMPLES = 12


def dense():
    return [keras.Input((4,)), layers.Dense(5, "tanh"), layers.Dense(3)]


def regularised():
    return [
        keras.Input((4,)),
        layers.Dense(5, "tanh", kernel_regularizer="l2"),
        layers.Dense(3, bias_regularizer="l2"),
    ]


def activity_regularised():
    return [keras.Input((4,)), layers.Dense(5, "tanh", activity_regularizer="l2"), layers.Dense(3)]


def convolutional():
    return [
        keras.Input((6, 6, 2)),
        layers.Conv2D(3, 3, activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(3),
    ]


def batch_normalised():
    return [
        keras.Input((6, 6, 2)),
        layers.Conv2D(3, 3),
        layers.BatchNormalization(),
        layers.Activation("tanh"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    ]


def layer_normalised():
    return [
        keras.Input((4,)),
        layers.Dense(6),
        layers.LayerNormalization(),
        layers.Activation("tanh"),
        layers.Dense(3),
    ]


def group_normalised():
    return [
        keras.Input((5, 5, 2)),
        layers.Conv2D(4, 3),
        layers.GroupNormalization(2),
        layers.Activation("tanh"),
        layers.Flatten(),
        layers.Dense(3),
    ]


class SelfAttention(layers.Layer):
    """One pre-normalised self-attention block on (batch, time, features)."""

    def __init__(self):
        super().__init__()
        self.norm = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(num_heads=2, key_dim=2)

    def build(self, shape):
        self.norm.build(shape)
        self.attention.build(shape, shape)

    def call(self, x):
        y = self.norm(x)
        return x + self.attention(y, y)


def attention():
    return [
        keras.Input((3, 4)),
        SelfAttention(),
        layers.Flatten(),
        layers.Dense(3),
    ]


def embedding():
    return [
        keras.Input((3,), dtype="int32"),
        layers.Embedding(7, 4),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ]


MODELS = {
    function.__name__: function
    for function in (
        dense,
        regularised,
        activity_regularised,
        convolutional,
        batch_normalised,
        layer_normalised,
        group_normalised,
        attention,
        embedding,
    )
}
LOSSES = {
    "squared_error": keras.losses.MeanSquaredError,
    "cross_entropy": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
}


def build(
    name, optimizer="sgd", loss="cross_entropy", num_examples=NUM_EXAMPLES, **compile_options
):
    """A compiled model of the table and its data, ``(model, x, y)``."""
    model = keras.Sequential(MODELS[name]())
    model.compile(optimizer=optimizer, loss=LOSSES[loss](), **compile_options)
    generator = np.random.default_rng(1)
    shape = (num_examples, *model.input_shape[1:])
    tokens = name == "embedding"
    x = generator.integers(0, 7, shape) if tokens else generator.standard_normal(shape)
    y = np.eye(3)[generator.integers(0, 3, num_examples)]
    return model, x, y


def model_with(layer, shape, **options):
    """A compiled model with a layer in its midst, and data ``(model, x, y)``."""
    model = keras.Sequential([keras.Input(shape), layers.Dense(shape[-1]), layer])
    model.add(layers.Flatten())
    model.add(layers.Dense(2, "tanh"))
    model.compile("sgd", "mse", **options)
    generator = np.random.default_rng(3)
    return model, generator.standard_normal((3, *shape)), generator.standard_normal((3, 2))


def two_outputs(optimizer):
    """A compiled model of dictionaries with two weighted losses, and its data ``(model, x, y)``."""
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Dense(5, "tanh")(layers.Concatenate()([a, b]))
    outputs = {
        "left": layers.Dense(3, name="left")(hidden),
        "right": layers.Dense(1, "sigmoid", name="right")(hidden),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile(
        optimizer,
        loss={"left": "mse", "right": "binary_crossentropy"},
        loss_weights={"left": 2.0, "right": 0.5},
    )
    generator = np.random.default_rng(0)
    rows = NUM_EXAMPLES
    x = {"a": generator.standard_normal((rows, 4)), "b": generator.standard_normal((rows, 2))}
    y = {
        "left": generator.standard_normal((rows, 3)),
        "right": generator.integers(0, 2, (rows, 1)).astype("f"),
    }
    return model, x, y


def fit_one(model, x, y, monitor, **options):
    """Fit for one epoch of one batch; return the monitor's only row, a Series."""
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[monitor], **options)
    (row,) = monitor.history.iloc
    return row


def flat(tensors):
    """Tensors or variables as one flat array."""
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(t)) for t in tensors])


def training_gradient(model, x, y):
    """Gradient of the training loss as a function of a flat float64 vector, by one tape alone."""
    variables = model.trainable_variables
    x = tf.convert_to_tensor(x)
    y = tf.convert_to_tensor(y)

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        parts = tape.gradient(loss, [v.value for v in variables])
        return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in parts], 0)

    def at(vector):
        begin = 0
        for variable in variables:
            size = int(np.prod(variable.shape))
            variable.assign(np.reshape(vector[begin : begin + size], variable.shape))
            begin += size
        return gradient().numpy()

    return at


def flat_parameters(model):
    return flat(model.trainable_variables)


def dense_hessian(model, x, y, step=1e-5):
    """The Hessian of the training loss by central differences of its gradient."""
    gradient = training_gradient(model, x, y)
    point = flat_parameters(model)
    hessian = np.empty((point.size, point.size))
    for i in range(point.size):
        shift = np.zeros_like(point)
        shift[i] = step
        hessian[i] = (gradient(point + shift) - gradient(point - shift)) / (2.0 * step)
    gradient(point)
    return (hessian + hessian.T) / 2.0


def random_preconditioner(model):
    """A positive diagonal for each trainable variable, and the same as a flat vector."""
    generator = np.random.default_rng(2)
    parts = [generator.uniform(0.1, 2.0, v.shape) for v in model.trainable_variables]
    return [
        tf.constant(p, v.dtype) for p, v in zip(parts, model.trainable_variables, strict=True)
    ], (np.concatenate([np.ravel(p) for p in parts]))


@functools.cache
def mirrored():
    """The strategy on both logical devices; one for all tests, whose collectives TF numbers."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


SCHEDULE = {"decay_steps": 7, "decay_rate": 0.5}


def schedule(rate):
    """A learning rate that falls from step to step."""
    return keras.optimizers.schedules.ExponentialDecay(rate, **SCHEDULE)


@dataclasses.dataclass(frozen=True)
class OptimizerCase:
    """An optimizer and what it claims.

    Attributes:
        make: Constructor taking the learning rate and base arguments.
        threshold: λ*·η without weight decay.
        buffer: What the momentum buffer takes up: "gradients"; "preconditioned" ones; or "steps",
            which have been multiplied by the learning rate too.
        twin: The row of the Keras optimizer that makes the same path; None if there is none.
    """

    make: Callable
    threshold: float
    buffer: str = "gradients"
    twin: str | None = None


def _with(make, **settings):
    return functools.partial(make, **settings)


def _frozen_adam(rate, **settings):
    generator = np.random.default_rng(4)
    moments = [generator.uniform(0.1, 2.0, shape) for shape in SHAPES]
    return ours.FrozenAdam(rate, moments, **settings)


# Shapes of the variables that the optimizers are tried on.
SHAPES = [(3, 4), (5,), (), (2, 3, 4)]
# So small that its place does not matter.
TINY = 1e-14
CUSTOM_OPTIMIZERS = {
    "gradient_descent": OptimizerCase(ours.GradientDescent, 2.0, twin="keras_sgd"),
    "heavy_ball": OptimizerCase(ours.HeavyBall, 3.8, twin="keras_sgd_momentum"),
    "heavy_ball_ema": OptimizerCase(_with(ours.HeavyBall, ema=True), 38.0),
    "nesterov": OptimizerCase(ours.Nesterov, 3.8 / 2.8, twin="keras_sgd_nesterov"),
    "nesterov_ema": OptimizerCase(_with(ours.Nesterov, ema=True), 38.0 / 2.8),
    "rmsprop": OptimizerCase(
        _with(ours.RMSprop, beta_2=0.9, epsilon=TINY), 2.0, twin="keras_rmsprop_tiny"
    ),
    "rmsprop_epsilon": OptimizerCase(_with(ours.RMSprop, epsilon=1e-2), 2.0),
    "adagrad": OptimizerCase(_with(ours.Adagrad, epsilon=TINY), 2.0, twin="keras_adagrad_tiny"),
    "adam": OptimizerCase(_with(ours.Adam, epsilon=TINY), 38.0, twin="keras_adam_tiny"),
    "adam_epsilon": OptimizerCase(_with(ours.Adam, beta_1=0.5, beta_2=0.9, epsilon=1e-2), 6.0),
    "adam_plain": OptimizerCase(_with(ours.Adam, bias_correction=False), 38.0),
    "adamw": OptimizerCase(_with(ours.AdamW, epsilon=TINY), 38.0, twin="keras_adamw_tiny"),
    "amsgrad": OptimizerCase(_with(ours.AMSGrad, beta_2=0.9), 38.0),
    "amsgrad_corrected": OptimizerCase(
        _with(ours.AMSGrad, bias_correction=True, epsilon=TINY), 38.0, twin="keras_amsgrad_tiny"
    ),
    "padam": OptimizerCase(ours.Padam, 38.0),
    "padam_corrected": OptimizerCase(
        _with(ours.Padam, exponent=0.4, epsilon=1e-2, bias_correction=True), 38.0
    ),
    "nadam": OptimizerCase(ours.Nadam, 38.0 / 2.8),
    "adafactor": OptimizerCase(ours.Adafactor, 38.0, buffer="preconditioned"),
    "adafactor_scaled": OptimizerCase(
        _with(ours.Adafactor, beta_1=0.0, clip_threshold=1.0, parameter_scaling=True),
        2.0,
        buffer="preconditioned",
        twin="keras_adafactor",
    ),
    "frozen_adam": OptimizerCase(_frozen_adam, 38.0),
}
KERAS_OPTIMIZERS = {
    "keras_sgd": OptimizerCase(keras.optimizers.SGD, 2.0),
    "keras_sgd_momentum": OptimizerCase(_with(keras.optimizers.SGD, momentum=0.9), 3.8, "steps"),
    "keras_sgd_nesterov": OptimizerCase(
        _with(keras.optimizers.SGD, momentum=0.9, nesterov=True), 3.8 / 2.8, "steps"
    ),
    "keras_rmsprop": OptimizerCase(keras.optimizers.RMSprop, 2.0),
    "keras_rmsprop_tiny": OptimizerCase(_with(keras.optimizers.RMSprop, epsilon=TINY), 2.0),
    "keras_rmsprop_momentum": OptimizerCase(
        _with(keras.optimizers.RMSprop, momentum=0.9, centered=True, epsilon=1e-2), 3.8, "steps"
    ),
    "keras_adagrad": OptimizerCase(_with(keras.optimizers.Adagrad, epsilon=1e-2), 2.0),
    "keras_adagrad_tiny": OptimizerCase(
        _with(keras.optimizers.Adagrad, initial_accumulator_value=0.0, epsilon=TINY), 2.0
    ),
    "keras_adam": OptimizerCase(_with(keras.optimizers.Adam, epsilon=1e-2), 38.0),
    "keras_adam_tiny": OptimizerCase(_with(keras.optimizers.Adam, epsilon=TINY), 38.0),
    "keras_amsgrad": OptimizerCase(_with(keras.optimizers.Adam, amsgrad=True), 38.0),
    "keras_amsgrad_tiny": OptimizerCase(
        _with(keras.optimizers.Adam, amsgrad=True, epsilon=TINY), 38.0
    ),
    "keras_adamw": OptimizerCase(keras.optimizers.AdamW, 38.0),
    "keras_adamw_tiny": OptimizerCase(_with(keras.optimizers.AdamW, epsilon=TINY), 38.0),
    "keras_adamax": OptimizerCase(_with(keras.optimizers.Adamax, epsilon=1e-2), 38.0),
    "keras_lamb": OptimizerCase(_with(keras.optimizers.Lamb, epsilon=1e-2), 38.0),
}
# Their momentum changes from step to step, so that there is no one threshold.
SCHEDULED_MOMENTUM = {
    "keras_nadam": OptimizerCase(_with(keras.optimizers.Nadam, epsilon=1e-2), np.nan),
}
# P is known up to a detail that they don't keep.
APPROXIMATE = {
    "keras_adadelta": OptimizerCase(keras.optimizers.Adadelta, 2.0),
    "keras_adafactor": OptimizerCase(_with(keras.optimizers.Adafactor, relative_step=False), 2.0),
}
OPTIMIZERS = CUSTOM_OPTIMIZERS | KERAS_OPTIMIZERS
