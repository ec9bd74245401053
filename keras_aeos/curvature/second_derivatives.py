"""Second derivatives that are exact, or refused where TensorFlow's are missing or wrong."""

import contextlib
import functools
import importlib
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.framework import op_def_registry, registry
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import custom_gradient, nn_impl

from keras_aeos.curvature import lean_gradients
from keras_aeos.curvature.corrections import CORRECTED, Gradient
from keras_aeos.curvature.refusals import (
    NO_SECOND_DERIVATIVE,
    REFUSED,
    ROUNDED,
    STATE_READ_BACK,
    TAKEN_FOR_CONSTANT,
    InexactError,
    refuse,
    refuse_inexact,
    rounding,
)
from keras_aeos.curvature.straight_through import STRAIGHT_THROUGH, is_straight_through

__all__ = ["InexactError", "exact_second_derivatives", "refuse_inexact"]

_stock_call = polymorphic_function.Function.__call__
_stock_custom_gradient = custom_gradient._graph_mode_decorator
# The package has a function of the same name, which hides the module.
_keras_rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")


@contextlib.contextmanager
def exact_second_derivatives() -> Iterator[None]:
    """Make second derivatives exact within this context.

    Some of TensorFlow's second derivatives are silently wrong, and others are missing. The context
    corrects the following ones. Values and first derivatives stay the same.

    - `tf.nn.moments`, and with it batch, layer and group normalisation: wrong. The variance is
      taken around ``stop_gradient(mean)``, which is right to first order only.
    - Max pooling that keeps the size, for example by strides of 1 and padding, or on an axis of
      length 1: wrong. A kernel overwrites its input.
    - Max pooling with explicit padding: missing.
    - Resizing, which is linear in the image: zero if bilinear; missing if nearest, bicubic or
      anti-aliased.
    - Softmax cross-entropy with labels that depend on parameters: wrong. The mixed derivative is
      left out.
    - `tf.reduce_logsumexp` where all terms are -inf: NaN.
    - Softsign: missing.
    - LSTM and GRU on a GPU: missing in cuDNN. Keras's own loop replaces it.
    - Layers under `keras.RematScope`: missing. Their values are kept instead of recomputed.

    Any other operation without a second derivative raises an `InexactError` that names its layer,
    but only when a gradient is taken through it. So do operations whose gradient is not that of
    their values: straight-through estimates, Python functions, and a state that is written and
    read back in the same forward pass. A `tf.function` that the model calls is inlined
    into the function being traced. Neither then uses the other's operations, and XLA compiles none
    of it.

    Some gradients that are right are replaced as well, by equal ones that make products cheaper
    (`keras_aeos/curvature/lean_gradients.py`).

    The context must surround the forward pass and the gradients of both tapes. It affects the
    calling thread alone. Functions traced before, after or by other threads keep the stock
    operations, including those that train the model.
    """
    with _patches:
        yield


class _Patches:
    """Corrected functions of TensorFlow and Keras, in place while any thread is inside.

    In all other threads they call the stock versions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._num_inside = 0
        self._stock: list[tuple[Any, str, Any]] = []

    @property
    def active(self) -> bool:
        """Whether the calling thread is inside."""
        return getattr(self._threads, "depth", 0) > 0

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._put_in_place()
            self._num_inside += 1
        self._threads.depth = getattr(self._threads, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        self._threads.depth -= 1
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                for owner, name, stock in self._stock:
                    setattr(owner, name, stock)
                self._stock.clear()

    def _put_in_place(self) -> None:
        gradients = _Gradients(framework_ops.gradient_registry)
        self._replace(framework_ops, "gradient_registry", gradients)
        self._replace(framework_ops, "_gradient_registry", gradients)
        for owner, name, corrected in (
            (nn_impl, "moments", _moments),
            (_keras_rnn, "cudnn_ok", lambda *_, **__: False),
            (tf, "recompute_grad", lambda function: function),
            (polymorphic_function.Function, "__call__", _call_inline),
            (tf.nn, "gelu", lean_gradients.of_each_entry(tf.nn.gelu)),
            (tf.nn, "silu", lean_gradients.of_each_entry(tf.nn.silu)),
            (tf, "reduce_logsumexp", _logsumexp),
            (tf.math, "reduce_logsumexp", _logsumexp),
            (keras.StatelessScope, "add_update", _guarded_update),
            (custom_gradient, "_graph_mode_decorator", _guarded_custom_gradient),
        ):
            stock = getattr(owner, name)
            self._replace(owner, name, self._of_thread(stock, corrected))

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._stock.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _of_thread(
        self, stock: Callable[..., Any], corrected: Callable[..., Any]
    ) -> Callable[..., Any]:
        @functools.wraps(stock)
        def function(*args: Any, **kwargs: Any) -> Any:
            return (corrected if self.active else stock)(*args, **kwargs)

        return function


_patches = _Patches()
_OURS = lean_gradients.LEAN | CORRECTED


class _Gradients(registry.Registry):
    """TensorFlow's table of gradients. In threads that are inside, ours take precedence."""

    def __init__(self, stock: registry.Registry) -> None:
        super().__init__(stock._name)
        self._registry = stock._registry

    def stock(self, name: str) -> Gradient:
        """The gradient that TensorFlow has registered."""
        return super().lookup(name)

    def lookup(self, name: str) -> Gradient:
        """The gradient that the calling thread uses."""
        if not _patches.active:
            return super().lookup(name)
        if name in _OURS:
            return _OURS[name]
        missing = name not in self._registry and op_def_registry.get(name) is not None
        if missing or name in REFUSED:
            return functools.partial(refuse, name, REFUSED.get(name, NO_SECOND_DERIVATIVE))
        stock = super().lookup(name)
        return stock and functools.partial(_named, name, stock)


# Operations whose gradient leaves out some of the floating inputs.
_PARTIAL = {
    "Betainc",
    "ImageProjectiveTransformV2",
    "ImageProjectiveTransformV3",
    "Polygamma",
    "ScaleAndTranslate",
    "Zeta",
}


def _named(kind: str, stock: Gradient, operation: Any, *upstream: Any) -> Any:
    """A stock gradient; where it fails or leaves out an input, an error names the operation."""
    if kind in ("AddV2", "Add", "Sub") and is_straight_through(operation):
        refuse("a straight-through estimate", STRAIGHT_THROUGH, operation)
    try:
        gradients = stock(operation, *upstream)
    except InexactError:
        raise
    except Exception as error:
        first = str(error).split("\n", maxsplit=1)[0]
        says = f"{NO_SECOND_DERIVATIVE} TensorFlow says: {type(error).__name__}: {first}"
        refuse(kind, says, operation)
    if kind in _PARTIAL:
        for tensor, gradient in zip(operation.inputs, gradients, strict=True):
            left_out = gradient is None and tensor is not None
            if left_out and record.should_record_backprop([tensor]):
                refuse(kind, TAKEN_FOR_CONSTANT, operation)
    return gradients


def _guarded_update(scope: keras.StatelessScope, update: tuple[keras.Variable, Any]) -> None:
    """Write to a variable within a scope; no gradient may pass through what is read back.

    Training takes what it reads back for a constant.
    """
    variable, value = update

    place = types.SimpleNamespace(name=variable.path)

    @tf.custom_gradient
    def written(value: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        return tf.identity(value), functools.partial(refuse, "a state", STATE_READ_BACK, place)

    if tf.is_tensor(value) and value.dtype.is_floating:
        value = written(value)
    scope.state_mapping[id(variable)] = value


def _guarded_custom_gradient(function: Any, args: Any, kwargs: Any) -> Any:
    """Call a function with a custom gradient; refuse the gradient if the function rounds."""

    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        begin = len(graph.get_operations())
        results, gradient = function(*args)
        rounded = rounding(graph.get_operations()[begin:], tf.nest.flatten(args))
        if rounded is None:
            return results, gradient

        def refused(*_: Any, variables: Any = None) -> None:
            refuse(rounded.type, ROUNDED, rounded)

        return results, refused

    return _stock_custom_gradient(guarded, args, kwargs)


def _moments(
    x: tf.Tensor,
    axes: Sequence[int],
    shift: Any = None,
    name: str | None = None,
    keep_dims: bool | None = None,
    keepdims: bool | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance along `axes`; half precision is averaged in float32, as in TensorFlow."""
    x = tf.convert_to_tensor(x)
    y = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(y, axes, keepdims=True)
    # The gradient through this mean is rounding alone, and cancels that of the rest: otherwise P⁻¹
    # magnifies what a bias in front of a normalisation has of it.
    variance = tf.reduce_mean(tf.square(y - mean), axes, keepdims=True)
    if not (keepdims or keep_dims):
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _logsumexp(
    input_tensor: tf.Tensor, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> tf.Tensor:
    """``log Σ exp x``; its derivatives are zero, and not NaN, where all terms are -inf."""
    x = tf.convert_to_tensor(input_tensor)
    largest = tf.reduce_max(x, axis, keepdims=True)
    largest = tf.stop_gradient(
        tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    )
    total = tf.reduce_sum(tf.exp(x - largest), axis, keepdims=True)
    empty = tf.equal(total, 0)
    logarithm = tf.math.log(tf.where(empty, tf.ones_like(total), total))
    result = tf.where(empty, tf.fill(tf.shape(total), tf.cast(-np.inf, x.dtype)), logarithm)
    result += largest
    return result if keepdims else tf.squeeze(result, axis)


def _call_inline(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the Python code of a `tf.function` while another function is being traced."""
    if tf.executing_eagerly():
        return _stock_call(function, *args, **kwargs)
    python = function.python_function
    if function._autograph:
        python = tf.__internal__.autograph.tf_convert(
            python, tf.__internal__.autograph.control_status_ctx()
        )
    return python(*args, **kwargs)
