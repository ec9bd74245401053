"""Checks that private names of TensorFlow do what the package relies on."""

import importlib
import os
import sys

import keras
import numpy as np
import tensorflow as tf

X = np.ones((4, 3), "float32")


def module(name):
    return importlib.import_module(name)


def custom_gradients():
    """A custom gradient in a graph goes through `_graph_mode_decorator`."""
    custom_gradient = module("tensorflow.python.ops.custom_gradient")
    stock, seen = custom_gradient._graph_mode_decorator, []

    def spy(function, args, kwargs):
        seen.append(function)
        return stock(function, args, kwargs)

    @tf.custom_gradient
    def square(x):
        return x * x, lambda upstream: 2.0 * x * upstream

    custom_gradient._graph_mode_decorator = spy
    try:
        tf.function(square)(tf.constant(3.0))
    finally:
        custom_gradient._graph_mode_decorator = stock
    assert len(seen) == 1


def onednn():
    """Whether TensorFlow uses oneDNN; the tests ask it to."""
    port = module("tensorflow.python.util")._pywrap_util_port
    assert port.IsMklEnabled() == (os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1")


def frames():
    """`sys` knows the functions that a thread executes."""
    assert any(frame.f_code is frames.__code__ for frame in sys._current_frames().values())


def recorded_tensors():
    """`record.should_record_backprop` tells whether a tape watches a tensor."""
    record = module("tensorflow.python.eager.record")
    x = tf.constant(1.0)
    with tf.GradientTape() as tape:
        assert not record.should_record_backprop([x])
        tape.watch(x)
        assert record.should_record_backprop([x])


def global_generators():
    """Keras and TensorFlow keep the generators of unseeded draws where they are restored from."""
    state = module("keras.src.backend.common.global_state")
    keras.utils.set_random_seed(0)
    keras.random.normal([2])
    generator = state.get_global_attribute("global_seed_generator")
    assert generator.state.shape == (2,)
    before = module("tensorflow.python.eager.context").context()._rng.getstate()
    tf.random.normal([2])
    assert module("tensorflow.python.eager.context").context()._rng.getstate() != before


def device_sizes():
    """The devices of the context are listed with their names and their memory."""
    listed = module("tensorflow.python.pywrap_tfe").TFE_ContextListDevices
    session = module("tensorflow.python.client.pywrap_tf_session")
    devices = listed(module("tensorflow.python.eager.context").context()._handle)
    names = [
        session.TF_DeviceListName(devices, index)
        for index in range(session.TF_DeviceListCount(devices))
    ]
    assert tf.ones([]).device in names
    assert session.TF_DeviceListMemoryBytes(devices, 0) > 0


def gradient_registry():
    """Gradients are looked up in `ops.gradient_registry` when a tape runs; a copy takes over."""
    ops = module("tensorflow.python.framework.ops")
    kind = module("tensorflow.python.framework.registry").Registry
    stock = ops.gradient_registry
    asked = []

    def lookup(self, name):
        asked.append(name)
        return kind.lookup(self, name)

    spy = type("Spy", (kind,), {"lookup": lookup})(stock._name)
    spy._registry = stock._registry
    ops.gradient_registry = ops._gradient_registry = spy
    try:

        @tf.function
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.square(x)
            return tape.gradient(y, x)

        assert float(gradient(tf.constant(3.0))) == 6.0
    finally:
        ops.gradient_registry = ops._gradient_registry = stock
    assert "Square" in asked
    assert "Square" in stock.list()


def op_definitions():
    """`op_def_registry.get` knows operations by name and answers None for others."""
    registry = module("tensorflow.python.framework.op_def_registry")
    assert registry.get("Square").name == "Square"
    assert registry.get("NoSuchOperation") is None


def moments():
    """`nn_impl.moments` is what `tf.nn.moments` and Keras' normalisation run."""
    nn_impl = module("tensorflow.python.ops.nn_impl")
    stock, calls = nn_impl.moments, []

    def spy(*args, **kwargs):
        calls.append(args)
        return stock(*args, **kwargs)

    nn_impl.moments = spy
    try:
        keras.layers.BatchNormalization()(X, training=True)
        keras.layers.GroupNormalization(1)(X)
        assert len(calls) >= 1
        calls.clear()
        nn_impl.moments_v2(tf.constant(X), [0])
        assert len(calls) == 1
    finally:
        nn_impl.moments = stock


def function_call():
    """`Function.__call__` is what a call of a `tf.function` runs; `_autograph` says how."""
    kind = module("tensorflow.python.eager.polymorphic_function.polymorphic_function").Function
    stock, calls = kind.__call__, []

    @tf.function
    def double(x):
        return 2 * x

    assert isinstance(double, kind)
    assert double._autograph is True
    assert double.python_function(3) == 6

    def spy(self, *args, **kwargs):
        calls.append(self)
        return stock(self, *args, **kwargs)

    kind.__call__ = spy
    try:
        double(tf.constant(1.0))
    finally:
        kind.__call__ = stock
    assert calls == [double]


def functions_of_a_graph():
    """`Graph._get_function` gives the function that a call names, with its `graph`."""

    @tf.function
    def inner(x):
        return tf.square(x)

    outer = tf.function(lambda x: inner(x)).get_concrete_function(tf.constant(1.0))
    [call] = [o for o in outer.graph.get_operations() if "PartitionedCall" in o.type]
    body = outer.graph._get_function(call.get_attr("f").name).graph
    assert "Square" in [o.type for o in body.get_operations()]


def autograph():
    """`tf.__internal__.autograph` converts Python control flow."""
    convert = tf.__internal__.autograph.tf_convert(
        lambda x: x + 1, tf.__internal__.autograph.control_status_ctx()
    )
    assert convert(1) == 2
