"""The table of models that drives the tests, with their data and their dense Hessians."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

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
        dense = [tf.cast(tf.convert_to_tensor(g), tf.float64) for g in parts]
        return tf.concat([tf.reshape(g, [-1]) for g in dense], 0)

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
