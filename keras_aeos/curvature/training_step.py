"""The gradient that a training step gives to the optimizer, taken without training."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.types.experimental import ConcreteFunction

from keras_aeos.curvature.batches import Nest
from keras_aeos.curvature.loss_scaling import loss_scale

# Under this name Keras keeps the generator of layers that draw without a seed.
_GLOBAL_GENERATOR = "global_seed_generator"


def traced_step(model: keras.Model, batch: Nest) -> ConcreteFunction:
    """The gradients of a training step, as a function without arguments.

    The function runs the model's own `train_step` on a batch. It returns the gradients that this
    step gives to the compiled optimizer, without the loss scale: one tensor for each trainable
    variable, zeros where there is none. The optimizer makes no update. The step writes what a
    forward pass writes, such as statistics and seeds: call the function within `unchanged`.

    Args:
        model: A built and compiled Keras model.
        batch: ``(x, y, sample_weight)``, tensors or nests of tensors or None.

    Raises:
        ValueError: If the step gives no gradient to the compiled optimizer.
    """
    optimizer, variables = model.optimizer, model.trainable_variables
    data = keras.utils.pack_x_y_sample_weight(*batch)

    def step() -> list[tf.Tensor]:
        given: dict[int, Any] = {}

        def apply(gradients: Sequence[Any], of: Any = None, *_: Any, **__: Any) -> None:
            given.update((id(v), g) for v, g in zip(of or variables, gradients, strict=True))

        with (
            _replaced(optimizer, "apply", apply),
            _replaced(model, "compute_metrics", lambda *_, **__: {}),
        ):
            model.train_step(data)
        if not given:
            raise ValueError("`train_step` gives no gradient to the compiled optimizer.")
        return [_unscaled(model, v, given.get(id(v))) for v in variables]

    return tf.function(step, autograph=False).get_concrete_function()


@contextlib.contextmanager
def unchanged(model: keras.Model, function: ConcreteFunction | None) -> Iterator[None]:
    """Restore variables and random generators at the end, bit for bit.

    Args:
        model: The Keras model, whose variables and those of its optimizer are restored.
        function: A function that reads or writes other variables, or None. They are restored, too.
    """
    undo = [_generators()]
    for variable in [
        *model.variables,
        *model.metrics_variables,
        *(model.optimizer.variables if model.optimizer is not None else []),
    ]:
        undo.append(_assign(variable.assign, tf.identity(tf.convert_to_tensor(variable.value))))
    for handle in function.captured_inputs if function is not None else []:
        undo += _of_handle(handle)
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _assign(assign: Callable[[tf.Tensor], Any], value: tf.Tensor) -> Callable[[], Any]:
    return lambda: assign(value)


def _of_handle(handle: tf.Tensor) -> list[Callable[[], Any]]:
    """A function that sets a variable, given as a resource, back to its present value."""
    if handle.dtype != tf.resource:
        return []
    types: Any = getattr(getattr(handle, "_handle_data", None), "shape_and_type", ())
    if len(types) != 1 or not tf.raw_ops.VarIsInitializedOp(resource=handle):
        return []
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.as_dtype(types[0].dtype))
    value = tf.identity(value)
    return [lambda: tf.raw_ops.AssignVariableOp(resource=handle, value=value)]


def _generators() -> Callable[[], Any]:
    """A function that sets the generators of Python, NumPy, Keras and TensorFlow back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    keras_generator = global_state.get_global_attribute(_GLOBAL_GENERATOR)
    if keras_generator is not None:
        state = tf.identity(tf.convert_to_tensor(keras_generator.state.value))
    tensorflow = getattr(context.context(), "_rng", None)
    of_tensorflow = tensorflow.getstate() if tensorflow is not None else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        global_state.set_global_attribute(_GLOBAL_GENERATOR, keras_generator)
        if keras_generator is not None:
            keras_generator.state.assign(state)
        if tensorflow is not None:
            tensorflow.setstate(of_tensorflow)

    return restore


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace a method of one object. Its own `__setattr__` would track the new value."""
    own = vars(owner)
    before = own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before


def _unscaled(model: keras.Model, variable: keras.Variable, gradient: Any) -> tf.Tensor:
    if gradient is None:
        return tf.zeros(variable.shape, variable.dtype)
    gradient = tf.convert_to_tensor(gradient)
    scale = loss_scale(model, gradient.dtype)
    return gradient if scale is None else gradient / scale
