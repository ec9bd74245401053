"""The calls of a model's layers: their inputs, and copies of the layers in float64."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope

# Positional and keyword arguments of a call.
Args = tuple[Any, ...]
Kwargs = dict[str, Any]
# A scalar function of a list of tensors.
ScalarFunction = Callable[[list[tf.Tensor]], tf.Tensor]


def generic(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Move values by about 1%, signs kept, away from ties and from the kinks at zero."""
    generator = np.random.default_rng(1)
    moved = []
    for tensor in tensors:
        values = tensor.numpy().astype("float64")
        noise = 0.01 * generator.standard_normal(values.shape)
        size = np.sqrt(np.mean(values**2)) or 1.0
        values = np.where(values == 0.0, size * np.abs(noise), values * (1.0 + noise))
        moved.append(tf.constant(values, tensor.dtype))
    return moved


def in_float64(
    layer: keras.layers.Layer, args: Args, kwargs: Kwargs
) -> tuple[keras.layers.Layer, Args, Kwargs]:
    """A float64 copy of a layer with the same variables, and its inputs in float64."""
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


def _with_float64(config: Any) -> Any:
    """A layer's configuration with every floating-point `dtype` set to float64."""
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


def _is_floating(leaf: Any) -> bool:
    return tf.is_tensor(leaf) and leaf.dtype.is_floating


def key(layer: keras.layers.Layer, args: Args, kwargs: Kwargs) -> str:
    """A key that is equal for two layers if one check serves both."""
    try:
        config = repr({k: v for k, v in layer.get_config().items() if k != "name"})
    except NotImplementedError:
        config = str(id(layer))
    shapes = [
        (leaf.shape, leaf.dtype) if tf.is_tensor(leaf) else leaf
        for leaf in tf.nest.flatten((args, kwargs))
    ]
    return repr((type(layer), config, layer.trainable, shapes))


def calls(
    model: keras.Model, x: Any
) -> list[tuple[keras.layers.Layer, str, Args, Kwargs, list[bool]]]:
    """The first call of each layer in a forward pass; the model itself comes last.

    Returns:
        A list of ``(layer, path, args, kwargs, acted_on)``. ``acted_on`` states for each leaf of
        ``(args, kwargs)`` whether it is a floating tensor that changes with the trainable
        variables.
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


def _record(
    model: keras.Model, x: Any, state: Sequence[tuple[keras.Variable, tf.Tensor]]
) -> dict[keras.layers.Layer, tuple[str, Args, Kwargs]]:
    """Path and arguments of the first call of each layer, in the order in which the calls end."""
    calls: dict[keras.layers.Layer, tuple[str, Args, Kwargs]] = {}
    stack: list[str] = []
    thread = threading.get_ident()
    stock = keras.layers.Layer.__call__

    def recorded(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return stock(layer, *args, **kwargs)
        stack.append(layer.name)
        path = "/".join(stack)
        try:
            return stock(layer, *args, **kwargs)
        finally:
            stack.pop()
            # A stateful recurrent layer passes its variables on.
            given = tf.nest.map_structure(
                lambda t: tf.convert_to_tensor(t.value) if isinstance(t, keras.Variable) else t,
                (args, kwargs),
            )
            calls.setdefault(layer, (path, *given))

    training = {"training": True} if model._call_has_training_arg else {}
    with contextlib.ExitStack() as undo:
        undo.callback(setattr, keras.layers.Layer, "__call__", stock)
        keras.layers.Layer.__call__ = recorded
        with keras.StatelessScope(state_mapping=state):
            model(x, **training)
    return calls


def smooth_function(
    layer: keras.layers.Layer,
    args: Args,
    kwargs: Kwargs,
    trainable: list[int],
    acted_on: list[bool],
) -> tuple[ScalarFunction, list[tf.Tensor]]:
    """A random smooth function of a layer's outputs, and the point at which to differentiate it.

    Let z be the outputs in units of their size, and r and q random numbers. The function is the
    mean of r z + q z²/2, plus the losses that the layer adds.
    """
    structure = (args, kwargs)
    leaves = tf.nest.flatten(structure)
    places = [i for i, acted in enumerate(acted_on) if acted]
    variables = [layer.variables[i] for i in trainable]
    training = {"training": True} if layer._call_has_training_arg else {}

    def call(values: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        given = list(leaves)
        for place, value in zip(places, values[len(variables) :], strict=True):
            given[place] = value
        args, kwargs = tf.nest.pack_sequence_as(structure, given)
        state = list(zip(variables, values, strict=False))
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            outputs = layer(*args, **(training | kwargs))
            return [t for t in tf.nest.flatten(outputs) if t.dtype.is_floating], layer.losses

    point = generic(
        [tf.convert_to_tensor(v.value) for v in variables] + [leaves[i] for i in places]
    )
    sizes = [float(tf.sqrt(tf.reduce_mean(tf.square(t)))) or 1.0 for t in call(point)[0]]

    def function(values: list[tf.Tensor]) -> tf.Tensor:
        outputs, losses = call(values)
        total = tf.add_n([tf.cast(loss, point[0].dtype) for loss in losses]) if losses else 0.0
        for index, (output, size) in enumerate(zip(outputs, sizes, strict=True)):
            z = output / tf.constant(size, output.dtype)
            r, q = (
                tf.random.stateless_normal(tf.shape(output), [index, seed], dtype=output.dtype)
                for seed in (1, 2)
            )
            total += tf.cast(tf.reduce_mean(r * z + q * z * z / 2.0), point[0].dtype)
        return total

    return function, point
