"""A self-test of second derivatives, on a user's own model: each layer, the loss, the whole."""

import dataclasses
import itertools
import random

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import from_data, from_list, unflatten
from keras_aeos.curvature.layer_calls import calls, generic, in_float64, key
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.second_derivatives import InexactError, exact_second_derivatives

# Examples that a check is made on. Kinks, as those of ReLU, come within reach of the differences
# more often the more there are.
_NUM_EXAMPLES = 8
# Directions that are tried before a part is called wrong.
_NUM_DRAWS = 3
# By the coarsest floating type of a computation: steps of central differences of the fourth order,
# and the largest relative error that rounding can make of one of them.
_STEPS = {tf.float64: (1e-4, 1e-7, 1e-9), tf.float32: (2e-2, 5e-3), None: (1e-1, 5e-2)}
_TOLERANCES = {tf.float64: 1e-6, tf.float32: 1e-3, None: 5e-2}


@dataclasses.dataclass(frozen=True)
class CheckedPart:
    """How well the second derivative of one part of a model fits its gradient.

    Attributes:
        name: The layer's path; "loss" for the loss as a function of the model's outputs and
            "whole loss" for that of the parameters, as it is measured.
        kind: The class.
        error: ‖Hv − d‖ / ‖d‖ with d the difference of gradients along v; NaN if not compared.
        tolerance: The largest error that the precision of the computation explains.
        status: "exact"; "wrong"; "refused"; "undecided", where the differences themselves don't
            settle, for kinks or a coarse type; "not checked", where the part can't be run alone.
        reason: Why it is refused or not checked.
    """

    name: str
    kind: str
    error: float
    tolerance: float
    status: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SecondDerivativeCheck:
    """What `check_second_derivatives` found, one row a part; printed, a table.

    Attributes:
        parts: A list of `CheckedPart`.
    """

    parts: list

    @property
    def ok(self):
        """Whether nothing is wrong or refused."""
        return not self.failures

    @property
    def failures(self):
        """The parts at fault: those wrong or refused that contain no other such part."""
        bad = [part for part in self.parts if part.status in ("wrong", "refused")]
        layers = [part for part in bad if part.name not in (_LOSS, _WHOLE)]
        smallest = [
            part
            for part in layers
            if not any(other.name.startswith(f"{part.name}/") for other in layers)
        ]
        smallest += [part for part in bad if part.name == _LOSS]
        return smallest or bad

    def __str__(self):
        width = max(len(part.name) for part in self.parts)
        kinds = max(len(part.kind) for part in self.parts)
        return "\n".join(
            f"{part.name:{width}}  {part.kind:{kinds}}  {part.error:8.1e}  {part.status}"
            + (f": {part.reason}" if part.reason else "")
            for part in self.parts
        )


_LOSS, _WHOLE, _OF_PARAMETERS = "loss", "whole loss", "of the parameters"


def check_second_derivatives(model, data, *, batch_size=None):
    """Compare Hessian-vector products with differences of the training gradient, part by part.

    TensorFlow's second derivatives are wrong through some operations, and a layer with a custom or
    stopped gradient trains by something that isn't the gradient of any function. Neither shows in
    the curvature itself: the products stay symmetric and finite. Here each layer is built anew in
    float64 with the model's weights, given the inputs that it gets in the model, and a random
    smooth function φ of its outputs is differentiated twice, as in a measurement. The product is
    held against

        d = (8 (g(x + hv) − g(x − hv)) − (g(x + 2hv) − g(x − 2hv))) / (12 h),

    with g the gradient of φ as training takes it and x the layer's weights and inputs. What can't
    be built anew is checked in its own precision. The loss, as a function of the outputs, and the
    whole loss of the first examples follow in theirs. Parts that no trainable variable acts on are
    left out, equal ones are checked once.

    The model and the random generators are left as they were.

    Args:
        model: A built and compiled Keras model.
        data: As for `keras_aeos.top_eigenpairs`; the first few examples of the first batch are
            used.
        batch_size: Rows a micro-batch, for arrays only.

    Returns:
        A `SecondDerivativeCheck`.

    Raises:
        ValueError: If a part is wrong or refused, with the names of the layers and the table.
    """
    batches = from_data(data, batch_size)
    Objective(model, batches)  # says what is missing of the model, and builds its losses
    leaves = [leaf[:_NUM_EXAMPLES] for leaf in next(iter(batches))]
    batch = unflatten(batches.spec, leaves)
    state = random.getstate()
    try:
        parts = [*_check_layers(model, batch[0]), *_check_losses(model, batch)]
    finally:
        random.setstate(state)
    result = SecondDerivativeCheck(parts)
    if not result.ok:
        names = ", ".join(f"{part.name!r} ({part.kind})" for part in result.failures)
        raise ValueError(
            "The second derivative of these parts isn't the derivative of the gradient that "
            f"trains the model: {names}. Curvature measured through them would be wrong. Replace "
            "them, freeze the layers up to them (`layer.trainable = False`), or write custom "
            f"gradients with operations that TensorFlow differentiates. Received:\n{result}"
        )
    return result


def _check_layers(model, x):
    """A `CheckedPart` for each layer that trainable variables act on, and for the model."""
    recorded = calls(model, x)
    known = {}
    for layer, path, args, kwargs, acted_on in recorded:
        trainable = [i for i, v in enumerate(layer.variables) if v.trainable]
        if not trainable and not any(acted_on):
            continue
        signature = key(layer, args, kwargs)
        if signature not in known:
            known[signature] = _check_layer(layer, args, kwargs, trainable, acted_on)
        yield dataclasses.replace(known[signature], name=path)


def _check_layer(layer, args, kwargs, trainable, acted_on):
    kind, reason = type(layer).__name__, ""
    for copy in (in_float64, lambda *call: call):
        # A layer may fail in any way to be built anew, to have kernels in float64, to run alone.
        try:
            own, own_args, own_kwargs = copy(layer, args, kwargs)
            function, point = _function(own, own_args, own_kwargs, trainable, acted_on)
            return _compare("", kind, function, point)
        except Exception as error:
            reason = str(error).split("\n", maxsplit=1)[0]
    return CheckedPart("", kind, np.nan, np.nan, "not checked", reason)


def _check_losses(model, batch):
    """The loss as a function of the outputs, then the whole as one of the parameters."""
    x, y, sample_weight = batch
    variables = model.trainable_variables
    parameters = [tf.convert_to_tensor(v.value) for v in variables]
    training = {"training": True} if model._call_has_training_arg else {}

    def loss(values, outputs=None):
        state = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            if outputs is None:
                outputs = model(x, **training)
            return model._compute_loss(
                x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True
            )

    with keras.StatelessScope():
        outputs = model(x, **training)

    def loss_of_outputs(values):
        return loss(parameters, tf.nest.pack_sequence_as(outputs, values))

    yield _compare(_LOSS, "of the outputs", loss_of_outputs, generic(tf.nest.flatten(outputs)))
    try:
        objective = Objective(model, from_list([batch]))
        hessian = objective.linearise()
    except (InexactError, LookupError, NotImplementedError) as refusal:
        yield CheckedPart(_WHOLE, _OF_PARAMETERS, np.nan, np.nan, "refused", str(refusal))
        return

    def product(_, direction):
        return objective.unpack(hessian.hessian_product(objective.pack(direction)))

    yield _compare(_WHOLE, _OF_PARAMETERS, loss, parameters, product)


def _compare(name, kind, function, point, product=None):
    """A `CheckedPart` for a scalar function of a list of tensors.

    Args:
        name: The name to report.
        kind: The class to report.
        function: The function.
        point: Where it is differentiated.
        product: The Hessian-vector product at `point` and a direction; None to differentiate
            `function` twice.
    """

    def differentiate(values):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = function(values)
        gradient = tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradient]

    def differentiate_twice(values, direction):
        with (
            exact_second_derivatives(),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(values)
            gradient = differentiate(values)
            second = tape.gradient(
                gradient,
                values,
                output_gradients=direction,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        return [tf.convert_to_tensor(s) for s in second]

    gradient = tf.function(differentiate, autograph=False)
    if product is None:
        product = tf.function(differentiate_twice, autograph=False)
        try:
            product.get_concrete_function(point, point)
        except (InexactError, LookupError, NotImplementedError) as refusal:
            return CheckedPart(name, kind, np.nan, np.nan, "refused", str(refusal))
    precision = _precision(gradient.get_concrete_function(point).graph)
    steps, tolerance = _STEPS[precision], _TOLERANCES[precision]

    best = np.inf
    settled = False
    generator = np.random.default_rng(0)
    for _ in range(_NUM_DRAWS):
        direction = [
            tf.constant(np.abs(p.numpy()) * generator.standard_normal(p.shape), p.dtype)
            for p in point
        ]
        ours = _flat(product(point, direction))
        differences = []
        for step in steps:
            differences.append(_difference(gradient, point, direction, step))
            error = _relative(ours - differences[-1], differences[-1])
            if error <= tolerance:
                return CheckedPart(name, kind, error, tolerance, "exact")
            best = min(best, error)
        spread = min(_relative(b - a, a) for a, b in itertools.pairwise(differences))
        settled |= spread < 0.3 * error
    return CheckedPart(name, kind, best, tolerance, "wrong" if settled else "undecided")


def _difference(gradient, point, direction, step):
    """Derivative of the gradient along a direction, by central differences of fourth order."""

    def at(factor):
        return _flat(
            gradient(
                [
                    p + p.dtype.as_numpy_dtype(factor) * d
                    for p, d in zip(point, direction, strict=True)
                ]
            )
        )

    near = at(step) - at(-step)
    far = at(2.0 * step) - at(-2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


def _relative(error, reference):
    size = np.linalg.norm(reference)
    return float(np.linalg.norm(error) / size) if size else float(np.linalg.norm(error))


def _flat(tensors):
    return np.concatenate([np.ravel(t.numpy()).astype("float64") for t in tensors])


def _precision(graph):
    """The coarsest floating type of a graph, None for half precision."""
    types = {tensor.dtype for op in graph.get_operations() for tensor in op.outputs}
    if types & {tf.float16, tf.bfloat16}:
        return None
    return tf.float32 if tf.float32 in types else tf.float64


def _function(layer, args, kwargs, trainable, acted_on):
    """A random smooth function of a layer's outputs, and where it is to be differentiated.

    With z the outputs in units of their size and r, q random numbers, it is the mean of
    r z + q z²/2, with the losses that the layer adds.
    """
    structure = (args, kwargs)
    leaves = tf.nest.flatten(structure)
    places = [i for i, acted in enumerate(acted_on) if acted]
    variables = [layer.variables[i] for i in trainable]
    training = {"training": True} if layer._call_has_training_arg else {}

    def call(values):
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

    def function(values):
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
