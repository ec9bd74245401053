"""The layers of a model as they are called: with what inputs, and as copies in float64."""

import contextlib
import threading

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope


def generic(tensors):
    """Values moved by a hundredth, signs as they are: off ties and off the kinks at zero."""
    generator = np.random.default_rng(1)
    moved = []
    for tensor in tensors:
        values = tensor.numpy().astype("float64")
        noise = 0.01 * generator.standard_normal(values.shape)
        size = np.sqrt(np.mean(values**2)) or 1.0
        values = np.where(values == 0.0, size * np.abs(noise), values * (1.0 + noise))
        moved.append(tf.constant(values, tensor.dtype))
    return moved


def in_float64(layer, args, kwargs):
    """A copy of a layer in float64 with the same variables, and its inputs."""
    args, kwargs = tf.nest.map_structure(
        lambda t: tf.cast(t, tf.float64) if _is_floating(t) else t, (args, kwargs)
    )
    classes = {type(inner).__name__: type(inner) for inner in layer._flatten_layers()}
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        with keras.utils.custom_object_scope(classes), SafeModeScope(safe_mode=False):
            copy = type(layer).from_config(_with_float64(layer.get_config()))
        copy(*args, **kwargs)
    finally:
        keras.config.set_dtype_policy(policy)
    for old, new in zip(layer.variables, copy.variables, strict=True):
        new.assign(tf.cast(old.value, new.dtype))
    return copy, args, kwargs


def _with_float64(config):
    if isinstance(config, dict):
        return {
            key: value
            if key != "dtype"
            else (value if isinstance(value, str) and "float" not in value else "float64")
            for key, value in ((k, _with_float64(v)) for k, v in config.items())
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_float64(item) for item in config)
    return config


def _is_floating(leaf):
    return tf.is_tensor(leaf) and leaf.dtype.is_floating


def key(layer, args, kwargs):
    """What two layers have in common that are checked as one."""
    try:
        config = repr({k: v for k, v in layer.get_config().items() if k != "name"})
    except NotImplementedError:
        config = str(id(layer))
    shapes = [
        (leaf.shape, leaf.dtype) if tf.is_tensor(leaf) else leaf
        for leaf in tf.nest.flatten((args, kwargs))
    ]
    return repr((type(layer), config, layer.trainable, shapes))


def calls(model, x):
    """The first call of each layer in a forward pass, the model's last.

    Returns:
        A list of ``(layer, path, args, kwargs, acted_on)``, with ``acted_on`` for each leaf of
        ``(args, kwargs)`` whether it is a floating tensor that the trainable variables act on:
        whether it changes with them.
    """
    moved = generic([tf.convert_to_tensor(v.value) for v in model.trainable_variables])
    first = _record(model, x, [])
    second = _record(model, x, list(zip(model.trainable_variables, moved, strict=True)))
    result = []
    for layer, (path, args, kwargs) in first.items():
        _, moved_args, moved_kwargs = second[layer]
        acted_on = [
            _is_floating(leaf) and bool(tf.reduce_any(leaf != other))
            for leaf, other in zip(
                tf.nest.flatten((args, kwargs)),
                tf.nest.flatten((moved_args, moved_kwargs)),
                strict=True,
            )
        ]
        result.append((layer, path, args, kwargs, acted_on))
    return result


def _record(model, x, state):
    """The path and arguments of the first call of each layer, in the order of their ends."""
    calls: dict = {}
    stack: list = []
    thread = threading.get_ident()
    stock = keras.layers.Layer.__call__

    def recorded(layer, *args, **kwargs):
        if threading.get_ident() != thread:
            return stock(layer, *args, **kwargs)
        stack.append(layer.name)
        path = "/".join(stack)
        try:
            return stock(layer, *args, **kwargs)
        finally:
            stack.pop()
            calls.setdefault(layer, (path, args, kwargs))

    training = {"training": True} if model._call_has_training_arg else {}
    with contextlib.ExitStack() as undo:
        undo.callback(setattr, keras.layers.Layer, "__call__", stock)
        keras.layers.Layer.__call__ = recorded
        with keras.StatelessScope(state_mapping=state):
            model(x, **training)
    return calls
