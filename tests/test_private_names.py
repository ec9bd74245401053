"""What the package relies on in Keras and TensorFlow beyond their public interface.

Each row names one private thing and checks that it still does what the package needs. A release
that changes one fails here by name; elsewhere the change could pass in silence.
"""

import ast
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.optimizers import base_arguments

ROOT = Path(__file__).resolve().parent.parent


def module(name):
    return importlib.import_module(name)


def dense_model(**options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(0.1), "mse", **options)
    return model


X, Y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")


# ------------------------------------------------------------------------------------- TensorFlow


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


# ------------------------------------------------------------------------------------------ Keras


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


# Slots of the stock optimizers, with their values after one update by the gradient 2.
SLOTS: dict[str, tuple[dict, dict[str, float]]] = {
    "Adadelta": ({}, {"_accumulated_grads": 0.05 * 4.0, "_accumulated_delta_vars": 0.05 * 2e-6}),
    "Adafactor": ({}, {"_v": 4.0}),
    "Adagrad": ({}, {"_accumulators": 0.1 + 4.0}),
    "Adam": (
        {"amsgrad": True},
        {"_momentums": 0.1 * 2.0, "_velocities": 0.001 * 4.0, "_velocity_hats": 0.001 * 4.0},
    ),
    "Adamax": ({}, {"_u": 2.0}),
    "Ftrl": ({}, {"_accumulators": 0.1 + 4.0}),
    "Lamb": ({}, {"_momentums": 0.1 * 2.0, "_velocities": 0.001 * 4.0}),
    "Muon": ({}, {"adam_velocities": 0.001 * 4.0}),
    "Nadam": ({}, {"_velocities": 0.001 * 4.0}),
    "RMSprop": (
        {"centered": True},
        {"_velocities": 0.1 * 4.0, "_average_gradients": 0.1 * 2.0},
    ),
    "SGD": ({"momentum": 0.9}, {"momentums": -0.1 * 2.0}),
    "ScheduleFreeAdamW": ({}, {"_velocities": 0.001 * 4.0}),
}


@pytest.mark.parametrize("name", SLOTS)
def test_slots_of_stock_optimizers(name):
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    settings, slots = SLOTS[name]
    optimizer = getattr(keras.optimizers, name)(0.1, **settings)
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer.apply([tf.fill([3], 2.0)], [variable])
    for slot, value in slots.items():
        [found] = getattr(optimizer, slot)
        # Keras keeps β in float32: 1 - 0.999 is off by 1e-5.
        np.testing.assert_allclose(found.numpy(), np.full(3, value), rtol=1e-4)


# What each check stands for: the name in the source.
CHECKS: dict[str, Callable[[], None]] = {
    "gradient_registry": gradient_registry,
    "custom_gradient, _graph_mode_decorator": custom_gradients,
    "record": recorded_tensors,
    "global_state, context": global_generators,
    "pywrap_tfe, pywrap_tf_session, _handle": device_sizes,
    "op_def_registry": op_definitions,
    "nn_impl": moments,
    "_pywrap_util_port": onednn,
    "_current_frames": frames,
    "polymorphic_function": function_call,
    "_get_function": functions_of_a_graph,
    "__internal__": autograph,
    "seed_generator_state": seeds,
    "train_function": training_function,
    "_compute_loss, _compile_loss, _symbolic_build": losses,
    "_call_has_training_arg": training_argument,
    "_flatten_layers": inner_layers,
    "SafeModeScope": safe_mode,
    "cudnn_ok": recurrent_kernels,
    "_trainable_variables, _learning_rate, _get_variable_index": optimizer_variables,
    "_use_weight_decay": excluded_variables,
    "_clip_gradients": clipped_gradients,
    "the methods of a step": steps,
    "overwrite_with_gradient": overwritten_variables,
}


@pytest.mark.parametrize("names", CHECKS)
def test_private_name_does_what_the_package_relies_on(names):
    CHECKS[names]()


def _own_names(tree):
    """Private names that a module defines: functions, classes, attributes of its instances."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _private_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if re.match(r"(keras\.src|tensorflow\.python)\b", node.module):
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"keras\.src[.\w]+", str(node.value)):
            yield node.value


# Checked with another name: what holds, or what uses it.
WITH = {
    "_gradient_registry": "gradient_registry",
    "registry": "gradient_registry",
    "_registry": "gradient_registry",
    "_name": "gradient_registry",
    "ops": "gradient_registry",
    "_autograph": "polymorphic_function",
    "keras.src.backend.tensorflow.rnn": "cudnn_ok",
    "_should_use_adamw": "Muon",
}


def test_every_private_name_in_the_package_has_a_check():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "keras_aeos").rglob("*.py")]
    own = {name for tree in trees for name in _own_names(tree)}
    used = {name for tree in trees for name in _private_imports(tree)}
    used |= {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]|__internal__", node.attr)
    } - own
    checked = {name for names in CHECKS for name in names.split(", ")}
    checked |= {slot for _, slots in SLOTS.values() for slot in slots} | set(WITH)
    assert used <= checked, f"without a check: {sorted(used - checked)}"
