"""Second derivatives that are exact, or refused where TensorFlow's are missing or wrong."""

import contextlib
import functools
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.framework import op_def_registry, registry
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import nn_impl

# Maps an operation and the gradients of its outputs to the gradients of its inputs.
Gradient = Callable[..., Any]

_stock_call = polymorphic_function.Function.__call__
# The package has a function of the same name, which hides the module.
_keras_rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")


class InexactError(ValueError):
    """An operation has no exact second derivative."""


@contextlib.contextmanager
def exact_second_derivatives() -> Iterator[None]:
    """Make second derivatives exact within this context.

    Some of TensorFlow's second derivatives are silently wrong, and others are missing. The context
    corrects the following ones. Values and first derivatives stay the same.

    - `tf.nn.moments`, and with it batch, layer and group normalisation: wrong. The variance is
      taken around ``stop_gradient(mean)``, which is right to first order only.
    - Max pooling that keeps the shape (strides of 1, padding): wrong. A kernel overwrites its
      input.
    - Resizing, which is linear in the image: zero if bilinear; missing if nearest, bicubic or
      anti-aliased.
    - Softmax cross-entropy with labels that depend on parameters: wrong. The mixed derivative is
      left out.
    - Softsign: missing.
    - LSTM and GRU on a GPU: missing in cuDNN. Keras's own loop replaces it.
    - Layers under `keras.RematScope`: missing. Their values are kept instead of recomputed.

    Any other operation without a second derivative raises an `InexactError` that names its layer,
    but only when a gradient is taken through it. A `tf.function` that the model calls is inlined
    into the function being traced. Neither then uses the other's operations, and XLA compiles none
    of it.

    The context must surround the forward pass and the gradients of both tapes. It affects the
    calling thread alone. Functions traced before, after or by other threads keep the stock
    operations, including those that train the model.
    """
    with _patches:
        yield


def refuse_inexact(graph: tf.Graph) -> None:
    """Refuse a traced function that is random or not twice differentiable.

    Within `exact_second_derivatives`, most inexact operations are refused when their gradient is
    taken. This function finds the others:

    - random operations that draw new numbers at each evaluation, so that no two products belong to
      the same Hessian;
    - the stock `tf.nn.moments` in functions traced elsewhere, such as those of a SavedModel;
    - gradients that TensorFlow looks up at run time and cannot find, such as the one of the CTC
      loss.

    Operations that no output of the function depends on are ignored.

    Args:
        graph: The graph of a concrete function, ``concrete_function.graph``.

    Raises:
        InexactError: For such an operation. The message names its layer and the remedy.
    """
    for operation in _operations(graph):
        if operation.op_def.is_stateful and _RANDOM.search(operation.type):
            raise InexactError(_message(operation.type, operation.name, _RANDOM_DRAWS))
        if operation.type == "SymbolicGradient":
            raise InexactError(_message("a gradient", operation.name, _NO_SECOND_DERIVATIVE))
        if operation.type == "StopGradient" and _IN_MOMENTS.search(operation.name):
            raise InexactError(_message("tf.nn.moments", operation.name, _TRACED_ELSEWHERE))


_RANDOM = re.compile("Random|Normal|Uniform|Multinomial|Sampler|^Rng|^SampleDistorted")
_IN_MOMENTS = re.compile(r"(^|/)moments(_\d+)?/StopGradient(_\d+)?$")
_RANDOM_DRAWS = (
    "it draws new random numbers at each evaluation. Draw with `keras.random` and a "
    "`keras.random.SeedGenerator` that is an attribute of the layer."
)
_TRACED_ELSEWHERE = (
    "its second derivative is wrong in a function traced before, or if it is called as "
    "`tf.compat.v1.nn.moments`. Call `tf.nn.moments` from the Python code of the layer."
)
_NO_SECOND_DERIVATIVE = (
    "TensorFlow has no second derivative of it. Write the layer or the loss with operations that "
    "have one, or freeze the layers up to this one (`layer.trainable = False`)."
)
_STRAIGHT_THROUGH = (
    "its straight-through gradient is not the gradient of any function, so there is no Hessian. "
    "Measure the model without quantisation."
)
_REFUSED = {
    "PreventGradient": _NO_SECOND_DERIVATIVE,
    "FakeQuantWithMinMaxArgs": _STRAIGHT_THROUGH,
    "FakeQuantWithMinMaxVars": _STRAIGHT_THROUGH,
    "FakeQuantWithMinMaxVarsPerChannel": _STRAIGHT_THROUGH,
}


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Operations that the outputs of a function graph depend on, including called functions."""
    seen: set[tf.Operation] = set()
    graphs = [graph]
    for graph in graphs:  # the loop appends to this list
        todo = [tensor.op for tensor in graph.outputs]
        while todo:
            operation = todo.pop()
            if operation not in seen:
                seen.add(operation)
                yield operation
                todo += [tensor.op for tensor in operation.inputs]
                graphs += [body for body in _bodies(operation) if body not in graphs]


def _bodies(operation: tf.Operation) -> Iterator[tf.Graph]:
    """Graphs of the functions that an operation calls, such as a partitioned call or a loop."""
    for attribute in operation.node_def.attr.values():
        for function in [attribute.func, *attribute.list.func]:
            called = operation.graph._get_function(function.name) if function.name else None
            body = getattr(called, "graph", None)
            if body is not None:
                yield body


def _message(kind: str, name: str, remedy: str) -> str:
    # Keras opens a layer's scope once to build it and once to call it; TensorFlow numbers these.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in name.split("/")[:-1]]
    path = "/".join(scope for scope in scopes if scope not in ("gradient_tape", "gradients"))
    where = f"in layer {path!r}" if path else "outside any layer"
    return f"No exact Hessian: {kind} {where}: {remedy} Received: operation={name!r}"


def _refuse(kind: str, remedy: str, operation: Any, *_: Any) -> NoReturn:
    """Raise in place of the gradient of an operation, from a graph or as recorded by a tape."""
    scope = tf.get_current_name_scope()
    name = getattr(operation, "name", None) or (f"{scope}/{kind}" if scope else kind)
    raise InexactError(_message(kind, name, remedy))


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
        if name in _CORRECTED:
            return _CORRECTED[name]
        missing = name not in self._registry and op_def_registry.get(name) is not None
        if missing or name in _REFUSED:
            remedy = _REFUSED.get(name, _NO_SECOND_DERIVATIVE)
            return functools.partial(_refuse, name, remedy)
        return super().lookup(name)


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
    variance = tf.reduce_mean(tf.square(y - mean), axes, keepdims=True)
    if not (keepdims or keep_dims):
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


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


def _linear(kind: str, inputs: Sequence[str], attributes: Sequence[str]) -> Gradient:
    """Gradient of an operation that is linear in its first input, an image.

    Args:
        kind: Type of the operation.
        inputs: Names of the operation's inputs after ``images`` and ``size``.
        attributes: Names of the operation's attributes that affect the result.
    """
    apply = getattr(tf.raw_ops, kind)

    def gradient(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        stock = framework_ops.gradient_registry.stock(kind)
        fixed = dict(zip(inputs, operation.inputs[2:], strict=True))
        fixed |= {name: operation.get_attr(name) for name in attributes}

        @tf.custom_gradient
        def transposed(gradients: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
            image, *_ = stock(operation, gradients)

            def forward(direction: tf.Tensor) -> tf.Tensor:
                return apply(images=direction, size=tf.shape(gradients)[1:3], **fixed)

            return image, forward

        return transposed(upstream), *[None] * (1 + len(inputs))

    return gradient


def _max_pool(kind: str) -> Gradient:
    """Gradient of a max-pooling gradient, in memory of its own.

    TensorFlow's kernel reuses the memory of its input if the shapes agree and the input has no
    other consumer. It clears this memory before reading it. Here the input has another consumer.
    """

    def gradient(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        *rest, picked = framework_ops.gradient_registry.stock(kind)(operation, upstream)
        if set(operation.get_attr("strides")) == {1} and operation.get_attr("padding") == b"SAME":
            picked = tf.where(tf.math.is_nan(upstream), upstream, picked)
        return *rest, picked

    return gradient


def _softsign(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of ``gradients / (1 + |x|)²``, itself the gradient of softsign."""
    gradients, x = operation.inputs
    scaled = upstream / tf.square(1.0 + tf.abs(x))
    return scaled, -2.0 * scaled * gradients * tf.sign(x) / (1.0 + tf.abs(x))


def _cross_entropy(
    operation: tf.Operation, of_loss: tf.Tensor, of_gradient: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of ``loss, softmax(logits) - labels``; TensorFlow omits these labels."""
    stock = framework_ops.gradient_registry.stock("SoftmaxCrossEntropyWithLogits")
    logits, labels = stock(operation, of_loss, of_gradient)
    return logits, labels if of_gradient is None else labels - of_gradient


_RESIZE = ("align_corners", "half_pixel_centers")
_CORRECTED: dict[str, Gradient] = {
    "ResizeBilinear": _linear("ResizeBilinear", (), _RESIZE),
    "ResizeNearestNeighbor": _linear("ResizeNearestNeighbor", (), _RESIZE),
    "ResizeBicubic": _linear("ResizeBicubic", (), _RESIZE),
    "ScaleAndTranslate": _linear(
        "ScaleAndTranslate", ("scale", "translation"), ("kernel_type", "antialias")
    ),
    "MaxPoolGrad": _max_pool("MaxPoolGrad"),
    "MaxPool3DGrad": _max_pool("MaxPool3DGrad"),
    "SoftsignGrad": _softsign,
    "SoftmaxCrossEntropyWithLogits": _cross_entropy,
}
