"""A check of second derivatives on a user's own model: each layer, the loss and the whole."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from keras_aeos.curvature.batches import Nest, from_data, from_list, unflatten
from keras_aeos.curvature.layer_calls import (
    Args,
    Kwargs,
    ScalarFunction,
    calls,
    generic,
    in_float64,
    key,
    smooth_function,
)
from keras_aeos.curvature.linearisation import Linearisation
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.precision import full_precision
from keras_aeos.curvature.second_derivatives import InexactError, exact_second_derivatives
from keras_aeos.curvature.training_step import traced_step, unchanged

# The Hessian-vector product (point, direction) of a scalar function of a list of tensors.
Product = Callable[[list[tf.Tensor], list[tf.Tensor]], list[tf.Tensor]]

# Examples per check. The more there are, the more often differences cross kinks such as ReLU's.
_NUM_EXAMPLES = 8
# Directions tried before a part is called wrong.
_NUM_DRAWS = 3
# For the coarsest floating type of a computation (None for half precision): steps of fourth-order
# central differences, and the largest relative error that rounding can cause at one of them.
_STEPS: dict[tf.DType | None, tuple[float, ...]] = {
    tf.float64: (1e-4, 1e-7, 1e-9),
    tf.float32: (2e-2, 5e-3),
    None: (1e-1, 5e-2),
}
_TOLERANCES: dict[tf.DType | None, float] = {tf.float64: 1e-6, tf.float32: 1e-3, None: 5e-2}
# Largest relative difference that rounding can cause between two computations of a gradient.
_OF_GRADIENT: dict[tf.DType | None, float] = {tf.float64: 1e-9, tf.float32: 1e-4, None: 5e-2}


@dataclasses.dataclass(frozen=True)
class CheckedPart:
    """How well the second derivative of one part of a model matches its gradient.

    Attributes:
        name: The layer's path. The loss as a function of the model's outputs is called "loss", the
            measured loss as a function of the parameters "whole loss", and the model's own
            `train_step` "training step".
        kind: The layer's class, or the arguments of the loss.
        error: ‖Hv − d‖ / ‖d‖ with d the difference of gradients along v; for the training step
            ‖g − t‖ / ‖t‖ with the measured gradient g and that of the step, t. NaN if not compared.
        tolerance: The largest error that the precision of the computation explains.
        status: "exact", "wrong", "refused", "undecided" or "not checked". A part is undecided if
            the differences themselves do not settle, because of kinks or a coarse type. It is not
            checked if it cannot be run alone.
        reason: Why the part is refused or not checked.
    """

    name: str
    kind: str
    error: float
    tolerance: float
    status: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SecondDerivativeCheck:
    """Result of `check_second_derivatives`, printed as a table with one row per part.

    Attributes:
        parts: A list of `CheckedPart`.
    """

    parts: list[CheckedPart]

    @property
    def ok(self) -> bool:
        """Whether no part is wrong or refused."""
        return not self.failures

    @property
    def failures(self) -> list[CheckedPart]:
        """The parts at fault: wrong or refused, without another such part inside."""
        bad = [part for part in self.parts if part.status in ("wrong", "refused")]
        layers = [part for part in bad if part.name not in (_LOSS, _WHOLE, _STEP)]
        smallest = [
            part
            for part in layers
            if not any(other.name.startswith(f"{part.name}/") for other in layers)
        ]
        smallest += [part for part in bad if part.name == _LOSS]
        return smallest or [part for part in bad if part.name == _STEP] or bad

    def __str__(self) -> str:
        width = max(len(part.name) for part in self.parts)
        kinds = max(len(part.kind) for part in self.parts)
        return "\n".join(
            f"{part.name:{width}}  {part.kind:{kinds}}  {part.error:8.1e}  {part.status}"
            + (f": {part.reason}" if part.reason else "")
            for part in self.parts
        )


_LOSS, _WHOLE, _STEP = "loss", "whole loss", "training step"
_OF_PARAMETERS = "of the parameters"


def check_second_derivatives(
    model: keras.Model, data: Any, *, batch_size: int | None = None
) -> SecondDerivativeCheck:
    """Compare Hessian-vector products with differences of the training gradient, part by part.

    TensorFlow's second derivatives are wrong through some operations. A layer with a custom or
    stopped gradient may train on a vector field that is not the gradient of any function. The
    curvature reveals neither: the products stay symmetric and finite.

    The check rebuilds each layer in float64 with the model's weights and calls it on the inputs
    that it receives in the model. It differentiates a random smooth function φ of the layer's
    outputs twice, as in a measurement. It compares the product with

        d = (8 (g(x + hv) − g(x − hv)) − (g(x + 2hv) − g(x − 2hv))) / (12 h),

    where g is the gradient of φ as training takes it and x the layer's weights and inputs. A layer
    that cannot be rebuilt is checked in its own precision. So are the loss as a function of the
    outputs and the whole loss of the first examples. Parts that no trainable variable acts on are
    skipped, and equal parts are checked once.

    The last part compares the measured gradient with the one that the model's own `train_step`
    gives to the optimizer. They differ if the step has a loss of its own, or if a state that is
    written in the forward pass is read back.

    The model, the optimizer and the random generators are left untouched.

    Args:
        model: `keras.Model`. Must be built and compiled.
        data: Tuple of arrays, `tf.data.Dataset` or `keras.utils.PyDataset`, as for
            `keras_aeos.top_eigenpairs`. The first few examples of the first batch are used.
        batch_size: Integer or None. Rows per micro-batch, for arrays only; None (default) means
            1,024.

    Returns:
        A `SecondDerivativeCheck`.

    Raises:
        ValueError: If a part is wrong or refused. The message names the layers and includes the
            table.
    """
    batches = from_data(data, batch_size)
    Objective(model, batches)  # checks the model and builds its losses
    leaves = next(iter(batches))
    if not any(tensor.shape[0] for tensor in getattr(model, "inputs", None) or []):
        leaves = [leaf[:_NUM_EXAMPLES] for leaf in leaves]
    batch = unflatten(batches.spec, leaves)
    step, reason = None, ""
    with unchanged(model, None):
        try:
            step = traced_step(model, batch)
        except Exception as error:  # a user's step can fail in any way
            reason = str(error).split("\n", maxsplit=1)[0]
    with full_precision(), unchanged(model, step):
        parts = [*_check_layers(model, batch[0]), *_check_losses(model, batch, step, reason)]
    result = SecondDerivativeCheck(parts)
    if not result.ok:
        names = ", ".join(f"{part.name!r} ({part.kind})" for part in result.failures)
        raise ValueError(
            "The second derivative of these parts is not the derivative of the gradient that "
            f"trains the model: {names}. Curvature measured through them would be wrong. Replace "
            "them, freeze the layers up to them (`layer.trainable = False`), or write custom "
            f"gradients with operations that TensorFlow differentiates. Received:\n{result}"
        )
    return result


def _check_layers(model: keras.Model, x: Nest) -> Iterator[CheckedPart]:
    """A `CheckedPart` for each layer that trainable variables act on, and for the model."""
    recorded = calls(model, x)
    known: dict[str, CheckedPart] = {}
    for layer, path, args, kwargs, acted_on in recorded:
        trainable = [i for i, v in enumerate(layer.variables) if v.trainable]
        if not trainable and not any(acted_on):
            continue
        signature = key(layer, args, kwargs)
        if signature not in known:
            known[signature] = _check_layer(layer, args, kwargs, trainable, acted_on)
        yield dataclasses.replace(known[signature], name=path)


def _check_layer(
    layer: keras.layers.Layer,
    args: Args,
    kwargs: Kwargs,
    trainable: list[int],
    acted_on: list[bool],
) -> CheckedPart:
    kind, reason = type(layer).__name__, ""
    for copy in (in_float64, lambda *call: call):
        # Rebuilding a layer, running it in float64 or running it alone can fail in any way.
        try:
            own, own_args, own_kwargs = copy(layer, args, kwargs)
            function, point = smooth_function(own, own_args, own_kwargs, trainable, acted_on)
            return _compare("", kind, function, point)
        except Exception as error:
            reason = str(error).split("\n", maxsplit=1)[0]
    return CheckedPart("", kind, np.nan, np.nan, "not checked", reason)


def _check_losses(
    model: keras.Model, batch: Nest, step: ConcreteFunction | None, reason: str
) -> Iterator[CheckedPart]:
    """The loss as a function of the outputs, then of the parameters; then the training step."""
    x, y, sample_weight = batch
    variables = model.trainable_variables
    parameters = [tf.convert_to_tensor(v.value) for v in variables]
    training = {"training": True} if model._call_has_training_arg else {}

    def loss(values: list[tf.Tensor], outputs: Nest = None) -> tf.Tensor:
        state = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            if outputs is None:
                outputs = model(x, **training)
            return model._compute_loss(
                x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True
            )

    with keras.StatelessScope():
        outputs = model(x, **training)

    def loss_of_outputs(values: list[tf.Tensor]) -> tf.Tensor:
        return loss(parameters, tf.nest.pack_sequence_as(outputs, values))

    yield _compare(_LOSS, "of the outputs", loss_of_outputs, generic(tf.nest.flatten(outputs)))
    try:
        objective = Objective(model, from_list([batch]))
        hessian = objective.linearise()
    except (InexactError, LookupError, NotImplementedError) as refusal:
        yield CheckedPart(_WHOLE, _OF_PARAMETERS, np.nan, np.nan, "refused", str(refusal))
        return

    def product(_: list[tf.Tensor], direction: list[tf.Tensor]) -> list[tf.Tensor]:
        return objective.unpack(hessian.hessian_product(objective.pack(direction)))

    yield _compare(_WHOLE, _OF_PARAMETERS, loss, parameters, product)
    if step is None:
        yield CheckedPart(_STEP, type(model).__name__, np.nan, np.nan, "not checked", reason)
    else:
        yield _check_step(model, hessian, step)


def _check_step(model: keras.Model, hessian: Linearisation, step: ConcreteFunction) -> CheckedPart:
    """The measured gradient against that of a training step."""
    kind = type(model).__name__
    expected = _flat(step())
    error = _relative(_flat([hessian.gradient]) - expected, expected)
    tolerance = _OF_GRADIENT[_precision(step.graph)]
    if error <= tolerance:
        return CheckedPart(_STEP, kind, error, tolerance, "exact")
    reason = "`train_step` descends another gradient than that of the measured loss"
    return CheckedPart(_STEP, kind, error, tolerance, "wrong", reason)


def _compare(
    name: str,
    kind: str,
    function: ScalarFunction,
    point: list[tf.Tensor],
    product: Product | None = None,
) -> CheckedPart:
    """A `CheckedPart` for a scalar function of a list of tensors.

    Args:
        name: Name to report.
        kind: Class to report.
        function: The function.
        point: Point at which the function is differentiated.
        product: Hessian-vector product at a point and a direction; None to differentiate
            `function` twice.
    """

    def differentiate(values: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = function(values)
        gradient = tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradient]

    def differentiate_twice(values: list[tf.Tensor], direction: list[tf.Tensor]) -> list[tf.Tensor]:
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
        traced = tf.function(differentiate_twice, autograph=False)
        try:
            traced.get_concrete_function(point, point)
        except (InexactError, LookupError, NotImplementedError) as refusal:
            return CheckedPart(name, kind, np.nan, np.nan, "refused", str(refusal))
        product = traced
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


def _difference(
    gradient: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    point: list[tf.Tensor],
    direction: list[tf.Tensor],
    step: float,
) -> np.ndarray:
    """Derivative of the gradient along a direction, by fourth-order central differences."""

    def at(factor: float) -> np.ndarray:
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


def _relative(error: np.ndarray, reference: np.ndarray) -> float:
    size = np.linalg.norm(reference)
    return float(np.linalg.norm(error) / size) if size else float(np.linalg.norm(error))


def _flat(tensors: list[tf.Tensor]) -> np.ndarray:
    return np.concatenate([np.ravel(t.numpy()).astype("float64") for t in tensors])


def _precision(graph: tf.Graph) -> tf.DType | None:
    """The coarsest floating type of a graph; None for half precision."""
    types = {tensor.dtype for op in graph.get_operations() for tensor in op.outputs}
    if types & {tf.float16, tf.bfloat16}:
        return None
    return tf.float32 if tf.float32 in types else tf.float64
