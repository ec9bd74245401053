"""Checks that private names of Keras do what the package relies on."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.optimizers import base_arguments


def module(name):
    return importlib.import_module(name)


def dense_model(**options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(0.1), "mse", **options)
    return model


X, Y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")


def seeds():
    """Seeds of layers are non-trainable variables of this name, that drawing moves on."""
    model = dense_model()
    [seed] = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    before = seed.numpy()
    assert before.shape == (2,)
    model(X, training=True)
    after = seed.numpy()
    assert before[0] == after[0]
    assert before[1] != after[1]


def training_function():
    """`make_train_function` sets `train_function`, which runs `train_step` of the instance."""
    model, steps = dense_model(run_eagerly=True), []
    stock = model.train_step

    def train_step(data):
        steps.append(data)
        return stock(data)

    model.train_function = None
    model.train_step = train_step
    type(model).make_train_function(model, force=True)
    assert callable(model.train_function)
    model.train_function(iter(tf.data.Dataset.from_tensors((X, Y))))
    assert len(steps) == 1
    # `fit` asks the instance for its function, and takes one that is there.
    made = []
    maker = model.make_train_function

    def make_train_function(force=False):
        made.append(force)
        maker(force)

    model.make_train_function = make_train_function
    model.fit(X, Y, verbose=0)
    assert made


def losses():
    """`_compute_loss` is the training loss; `_compile_loss` is built by `_symbolic_build`."""
    model = dense_model()
    assert model._compile_loss is not None
    assert not model._compile_loss.built
    model._symbolic_build(data_batch=(keras.KerasTensor((4, 3)), keras.KerasTensor((4, 2)), None))
    assert model._compile_loss.built
    loss = model._compute_loss(x=X, y=Y, y_pred=Y + 3.0, sample_weight=None, training=True)
    assert float(loss) == pytest.approx(9.0)


def training_argument():
    """`_call_has_training_arg` says whether a layer or model takes `training`."""
    assert dense_model()._call_has_training_arg
    assert keras.layers.Dropout(0.5)._call_has_training_arg
    assert not keras.layers.Rescaling(2.0)._call_has_training_arg


def inner_layers():
    """`_flatten_layers` gives a layer and all layers inside it."""
    names = [layer.name for layer in dense_model()._flatten_layers()]
    assert len(names) >= 3


def safe_mode():
    """`SafeModeScope` allows lambdas in a configuration."""
    scope = module("keras.src.saving.serialization_lib").SafeModeScope
    layer = keras.layers.Lambda(lambda x: x)
    with scope(safe_mode=False):
        assert keras.layers.Lambda.from_config(layer.get_config()) is not None


def recurrent_kernels():
    """`cudnn_ok` of the TensorFlow backend decides whether LSTM and GRU use cuDNN."""
    rnn = module("keras.src.backend.tensorflow.rnn")
    stock, asked = rnn.cudnn_ok, []

    def no(*args, **kwargs):
        asked.append(args)
        return False

    rnn.cudnn_ok = no
    try:
        keras.layers.LSTM(2)(np.ones((1, 3, 2), "float32"))
    finally:
        rnn.cudnn_ok = stock
    assert asked


def optimizer_variables():
    """`_trainable_variables` are those of `build`, `_learning_rate` is a variable or a schedule."""
    optimizer = keras.optimizers.SGD(0.25)
    variables = [keras.Variable(np.ones(2)), keras.Variable(np.ones(3))]
    optimizer.build(variables)
    assert [id(v) for v in optimizer._trainable_variables] == [id(v) for v in variables]
    assert [optimizer._get_variable_index(v.value) for v in variables] == [0, 1]
    assert isinstance(optimizer._learning_rate, keras.Variable)
    assert float(optimizer._learning_rate.numpy()) == 0.25
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert keras.optimizers.SGD(schedule)._learning_rate is schedule


def excluded_variables():
    """`_use_weight_decay` looks for the names in that of the TensorFlow variable."""
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    variable = keras.Variable(np.ones(2), name="bias")
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build([variable])
    assert not optimizer._use_weight_decay(variable.value)


def clipped_gradients():
    """`_clip_gradients` clips as the update does."""
    optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    [clipped] = optimizer._clip_gradients([tf.constant([3.0, 4.0])])
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)


def steps():
    """The methods that a step is made of: one that is gone could be overridden unseen."""
    for name in base_arguments._STEP_METHODS:
        assert callable(getattr(keras.optimizers.Optimizer, name))


def overwritten_variables():
    """`overwrite_with_gradient` marks the variables that are no parameters."""
    variable = keras.Variable(1.0)
    assert variable.overwrite_with_gradient is False
