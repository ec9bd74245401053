"""Second derivatives that are exact, or refused where TensorFlow's are missing or wrong."""

import contextlib
import functools
import importlib
import re
import threading

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.framework import op_def_registry, registry
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import nn_impl

_stock_call = polymorphic_function.Function.__call__
# Its package has a function of the same name.
_keras_rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")


class InexactError(ValueError):
    """An operation has no exact second derivative."""


@contextlib.contextmanager
def exact_second_derivatives():
    """Within this context, what TensorFlow differentiates once can be differentiated twice.

    Stock second derivatives are wrong in some places, silently, and missing in others. These are
    mended, with the values and first derivatives as they were:

    - `tf.nn.moments`, and with it batch, layer and group normalisation: the variance is taken
      around ``stop_gradient(mean)``, which is right to first order only;
    - max pooling that keeps the shape (strides of 1, padding): wrong, for a kernel that overwrites
      its input;
    - resizing, which is linear in the image: bilinear, zero; nearest, bicubic and anti-aliased,
      missing;
    - softmax cross-entropy, by labels that depend on parameters: the mixed derivative is left out;
    - softsign, missing;
    - LSTM and GRU on a GPU, missing in cuDNN: Keras' own loop takes its place;
    - layers under `keras.RematScope`, missing: their values are kept instead of computed anew.

    Every other operation without a second derivative raises an `InexactError` with its layer, the
    moment that a gradient is taken through it and only then. A `tf.function` that the model calls
    becomes part of the function that is being traced, so that neither uses the other's operations
    and none of it is compiled by XLA.

    The context has to be around the forward pass and the gradients of both tapes. It holds for
    the calling thread alone: functions traced before, after or by other threads, those that train
    the model among them, have the stock operations.
    """
    with _patches:
        yield


def refuse_inexact(graph):
    """Refuse a traced function that isn't the same at each evaluation, or not twice differentiable.

    Gradients see to themselves inside of `exact_second_derivatives`; this finds what they can't
    see: random operations that draw anew at each evaluation, so that no two products belong to the
    same Hessian; the stock `tf.nn.moments` in functions that were traced elsewhere, such as those
    of a SavedModel; gradients that TensorFlow leaves to the run and then can't find, as that of
    the CTC loss. Operations that no output of the function depends on are left alone.

    Args:
        graph: The graph of a concrete function, ``concrete_function.graph``.

    Raises:
        InexactError: For such an operation, with its layer and the remedy.
    """
    for operation in _operations(graph):
        if operation.op_def.is_stateful and _RANDOM.search(operation.type):
            raise InexactError(_message(operation.type, operation.name, _DRAWS_ANEW))
        if operation.type == "SymbolicGradient":
            raise InexactError(_message("a gradient", operation.name, _NO_SECOND_DERIVATIVE))
        if operation.type == "StopGradient" and _IN_MOMENTS.search(operation.name):
            raise InexactError(_message("tf.nn.moments", operation.name, _TRACED_ELSEWHERE))


_RANDOM = re.compile("Random|Normal|Uniform|Multinomial|Sampler|^Rng|^SampleDistorted")
_IN_MOMENTS = re.compile(r"(^|/)moments(_\d+)?/StopGradient(_\d+)?$")
_DRAWS_ANEW = (
    "it draws anew at each evaluation. Draw with `keras.random` and a `keras.random.SeedGenerator` "
    "that is an attribute of the layer."
)
_TRACED_ELSEWHERE = (
    "its second derivative is wrong where it is part of a function traced before, or called as "
    "`tf.compat.v1.nn.moments`. Call `tf.nn.moments` from the Python code of the layer."
)
_NO_SECOND_DERIVATIVE = (
    "TensorFlow has no second derivative of it. Write the layer or the loss with operations that "
    "have one, or freeze the layers up to this one (`layer.trainable = False`)."
)
_STRAIGHT_THROUGH = (
    "its gradient is a straight-through estimate and not that of a function, so there is no "
    "Hessian. Measure the model without quantisation."
)
_REFUSED = {
    "PreventGradient": _NO_SECOND_DERIVATIVE,
    "FakeQuantWithMinMaxArgs": _STRAIGHT_THROUGH,
    "FakeQuantWithMinMaxVars": _STRAIGHT_THROUGH,
    "FakeQuantWithMinMaxVarsPerChannel": _STRAIGHT_THROUGH,
}


def _operations(graph):
    """The operations that the outputs of a function graph depend on, those it calls included."""
    seen, graphs = set(), [graph]
    for graph in graphs:  # grows while it is gone through
        todo = [tensor.op for tensor in graph.outputs]
        while todo:
            operation = todo.pop()
            if operation not in seen:
                seen.add(operation)
                yield operation
                todo += [tensor.op for tensor in operation.inputs]
                graphs += [body for body in _bodies(operation) if body not in graphs]


def _bodies(operation):
    """Graphs of the functions that an operation calls, as partitioned calls and loops do."""
    for attribute in operation.node_def.attr.values():
        for function in [attribute.func, *attribute.list.func]:
            called = operation.graph._get_function(function.name) if function.name else None
            body = getattr(called, "graph", None)
            if body is not None:
                yield body


def _message(what, name, remedy):
    # Keras opens the scope of a layer to build it and again to call it; TensorFlow numbers that.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in name.split("/")[:-1]]
    path = "/".join(scope for scope in scopes if scope not in ("gradient_tape", "gradients"))
    where = f"in layer {path!r}" if path else "outside of the layers"
    return f"No exact Hessian: {what} {where}: {remedy} Received: operation {name!r}"


def _refuse(kind, remedy, operation, *_):
    """In place of the gradient of an operation, of a graph or as a tape has recorded it."""
    scope = tf.get_current_name_scope()
    name = getattr(operation, "name", None) or (f"{scope}/{kind}" if scope else kind)
    raise InexactError(_message(kind, name, remedy))


class _Patches:
    """TensorFlow and Keras with what is mended put in place while any thread is inside.

    What is put in place calls the stock version in all other threads.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._num_inside = 0
        self._stock = []

    @property
    def active(self):
        """Whether the calling thread is inside."""
        return getattr(self._threads, "depth", 0) > 0

    def __enter__(self):
        with self._lock:
            if self._num_inside == 0:
                self._put_in_place()
            self._num_inside += 1
        self._threads.depth = getattr(self._threads, "depth", 0) + 1

    def __exit__(self, *_):
        self._threads.depth -= 1
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                for owner, name, stock in self._stock:
                    setattr(owner, name, stock)
                self._stock.clear()

    def _put_in_place(self):
        gradients = _Gradients(framework_ops.gradient_registry)
        self._replace(framework_ops, "gradient_registry", gradients)
        self._replace(framework_ops, "_gradient_registry", gradients)
        for owner, name, mended in (
            (nn_impl, "moments", _moments),
            (_keras_rnn, "cudnn_ok", lambda *_, **__: False),
            (tf, "recompute_grad", lambda function: function),
            (polymorphic_function.Function, "__call__", _call_inline),
        ):
            stock = getattr(owner, name)
            self._replace(owner, name, self._of_thread(stock, mended))

    def _replace(self, owner, name, value):
        self._stock.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _of_thread(self, stock, mended):
        @functools.wraps(stock)
        def function(*args, **kwargs):
            return (mended if self.active else stock)(*args, **kwargs)

        return function


_patches = _Patches()


class _Gradients(registry.Registry):
    """TensorFlow's table of gradients, with ours before it in threads that are inside."""

    def __init__(self, stock):
        super().__init__(stock._name)
        self._registry = stock._registry

    def stock(self, name):
        """What TensorFlow has registered."""
        return super().lookup(name)

    def lookup(self, name):
        """What the calling thread uses."""
        if not _patches.active:
            return super().lookup(name)
        if name in _MENDED:
            return _MENDED[name]
        missing = name not in self._registry and op_def_registry.get(name) is not None
        if missing or name in _REFUSED:
            remedy = _REFUSED.get(name, _NO_SECOND_DERIVATIVE)
            return functools.partial(_refuse, name, remedy)
        return super().lookup(name)


def _moments(x, axes, shift=None, name=None, keep_dims=None, keepdims=None):
    """Mean and variance along `axes`; half precision is averaged in float32, as stock does."""
    x = tf.convert_to_tensor(x)
    y = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(y, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(y - mean), axes, keepdims=True)
    if not (keepdims or keep_dims):
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _call_inline(function, *args, **kwargs):
    """A `tf.function` called as its Python code, where that becomes part of another one."""
    if tf.executing_eagerly():
        return _stock_call(function, *args, **kwargs)
    python = function.python_function
    if function._autograph:
        python = tf.__internal__.autograph.tf_convert(
            python, tf.__internal__.autograph.control_status_ctx()
        )
    return python(*args, **kwargs)


def _linear(kind, inputs, attributes):
    """Gradient of an operation that is linear in its first input, an image.

    Args:
        kind: Type of the operation.
        inputs: Names of its inputs, of which ``images`` and ``size`` come first.
        attributes: Names of its attributes that matter.
    """
    apply = getattr(tf.raw_ops, kind)

    def gradient(operation, upstream):
        stock = framework_ops.gradient_registry.stock(kind)
        fixed = dict(zip(inputs, operation.inputs[2:], strict=True))
        fixed |= {name: operation.get_attr(name) for name in attributes}

        @tf.custom_gradient
        def transposed(gradients):
            image, *_ = stock(operation, gradients)

            def forward(direction):
                return apply(images=direction, size=tf.shape(gradients)[1:3], **fixed)

            return image, forward

        return transposed(upstream), *[None] * (1 + len(inputs))

    return gradient


def _max_pool(kind):
    """Gradient of a gradient of max pooling, in memory of its own.

    TensorFlow's kernel takes the memory of what it is applied to for its result, if that has the
    same shape and nothing else needs it, and clears it before it reads. Here something does.
    """

    def gradient(operation, upstream):
        *rest, picked = framework_ops.gradient_registry.stock(kind)(operation, upstream)
        if set(operation.get_attr("strides")) == {1} and operation.get_attr("padding") == b"SAME":
            picked = tf.where(tf.math.is_nan(upstream), upstream, picked)
        return *rest, picked

    return gradient


def _softsign(operation, upstream):
    """Gradient of ``gradients / (1 + |x|)²``, which is the gradient of softsign."""
    gradients, x = operation.inputs
    scaled = upstream / tf.square(1.0 + tf.abs(x))
    return scaled, -2.0 * scaled * gradients * tf.sign(x) / (1.0 + tf.abs(x))


def _cross_entropy(operation, of_loss, of_gradient):
    """Gradient of ``loss, softmax(logits) - labels``; stock leaves out the last term's labels."""
    stock = framework_ops.gradient_registry.stock("SoftmaxCrossEntropyWithLogits")
    logits, labels = stock(operation, of_loss, of_gradient)
    return logits, labels if of_gradient is None else labels - of_gradient


_RESIZE = ("align_corners", "half_pixel_centers")
_MENDED = {
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
