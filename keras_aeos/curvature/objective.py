"""The training loss of a Keras model as a function of its parameters, and its derivatives."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature import programs
from keras_aeos.curvature.batches import MicroBatches, Nest, flatten, num_rows, unflatten
from keras_aeos.curvature.compilation import CompilationTrial
from keras_aeos.curvature.device_memory import is_host, room
from keras_aeos.curvature.loss_scaling import loss_scale
from keras_aeos.curvature.partial_evaluation import PartialEvaluation, num_bytes
from keras_aeos.curvature.second_derivatives import exact_second_derivatives, refuse_inexact
from keras_aeos.solvers.operators import Program
from keras_aeos.solvers.vectors import Matvec

# Maps a model and a batch ``(x, y, sample_weight)`` to a scalar loss.
LossFunction = Callable[[Any, Nest], tf.Tensor]
# Called with the gradient of a micro-batch and its product with a vector.
Visitor = Callable[[tf.Tensor, Matvec], None]


class Objective:
    """Mean training loss over micro-batches, its gradient and Hessian-vector products.

    The loss is what `fit` minimises, in training mode: all outputs and loss weights, regularisers
    and added losses, batch statistics in BatchNorm, and dropout with a mask that stays the same
    until the model's seeds move on. With ``n_b`` the examples of micro-batch b,

        f(x) = Σ_b (n_b / Σ n_b) f_b(x),

    which for losses that average over examples equals the loss of one batch of all examples
    (BatchNorm layers see the statistics of their micro-batch). Nothing of the model changes when
    it is evaluated: variables, BatchNorm statistics, seeds and metrics are left alone.

    Parameters are flat vectors of shape (n,), the trainable variables in the model's order, in the
    widest of their dtypes and float32.

    Args:
        model: A built and compiled Keras model. Variables that are trainable now are its
            parameters.
        batches: A `keras_aeos.curvature.batches.MicroBatches`. Others of the same `spec` may take
            its place later.
        loss: Function ``(model, batch)`` that returns the loss of a batch
            ``(x, y, sample_weight)``, a scalar; None (default) for the loss of `compile`.
        variables: List of variables or None. The parameters; None (default) for the model's
            trainable variables.

    Attributes:
        kept_bytes: Bytes of intermediate values that a linearisation may keep; None for the `room`
            of the device.

    Raises:
        ValueError: If the model is not built or not compiled, has nothing to train, or has
            variables that are overwritten by their gradient, as in float8.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: MicroBatches,
        loss: LossFunction | None = None,
        variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        self.variables = list(model.trainable_variables if variables is None else variables)
        _check(model, self.variables, loss)
        self.model = model
        self.batches = batches
        self.kept_bytes: int | None = None
        self._loss_function = loss
        dtypes = [tf.float32, *(tf.as_dtype(v.dtype) for v in self.variables)]
        self.dtype = max(dtypes, key=lambda d: d.size)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self._sizes = [int(tf.TensorShape(shape).num_elements()) for shape in self._shapes]
        self.num_parameters = sum(self._sizes)
        self._build_losses()
        self._traced = tf.function(
            self._product_of_batch,
            input_signature=[
                tf.TensorSpec([self.num_parameters], self.dtype),
                [tf.TensorSpec(v.shape, v.dtype) for v in self.variables],
                tf.TensorSpec([], tf.int64),
                *flatten(batches.spec),
            ],
            autograph=False,
        )

    @property
    def num_traces(self) -> int:
        """Traces made so far: 1, once used."""
        return self._traced.experimental_get_tracing_count()

    def linearise(self, visitors: Sequence[Visitor] = ()) -> "Linearisation":
        """Loss, gradient and Hessian at the model's present parameters.

        Args:
            visitors: Each is called with the gradient (n,) of each micro-batch and the function
                that multiplies a vector (n,) by its Hessian, in order.

        Returns:
            A `Linearisation`.
        """
        made = Linearisation(self, visitors)
        if self._trial.consider(made.gradient, made._kept):
            del self.program  # its traces hold the products as they were
        return made

    def room_for_values(self, device: str) -> int:
        """Bytes of intermediate values that a linearisation may keep on a device."""
        if self.kept_bytes is not None:
            return self.kept_bytes
        free = room(device)
        if not is_host(device):
            # The peak of memory is that of training only until something has been measured.
            self.kept_bytes = free
        return free

    def pack(self, tensors: Iterable[tf.Tensor]) -> tf.Tensor:
        """Flat vector (n,) of a list of tensors, one per trainable variable."""
        return tf.concat([tf.reshape(tf.cast(t, self.dtype), [-1]) for t in tensors], axis=0)

    def unpack(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """List of tensors of the trainable variables' shapes and dtypes, from a vector (n,)."""
        parts = tf.split(vector, self._sizes)
        return [
            tf.cast(tf.reshape(part, shape), variable.dtype)
            for part, shape, variable in zip(parts, self._shapes, self.variables, strict=True)
        ]

    @functools.cached_property
    def parts(self) -> PartialEvaluation:
        """The traced product of one micro-batch, as a `PartialEvaluation`."""
        function = self._traced.get_concrete_function()
        refuse_inexact(function.graph)
        return PartialEvaluation(function)

    @functools.cached_property
    def _trial(self) -> CompilationTrial:
        return CompilationTrial(self.parts)

    @functools.cached_property
    def program(self) -> Program:
        """The products as a solver's graph holds them."""
        return programs.program(self.parts)

    def _product_of_batch(
        self,
        vector: tf.Tensor,
        parameters: list[tf.Tensor],
        index: tf.Tensor,
        *leaves: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        with exact_second_derivatives():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(parameters)
                count, loss, gradient = self._loss_and_gradient(parameters, index, leaves)
            product = tape.gradient(
                gradient,
                parameters,
                output_gradients=self.unpack(vector),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        dense = [tf.convert_to_tensor(p) for p in product]
        scale = loss_scale(self.model, self.dtype)
        if scale is None:
            return count, loss, self.pack(gradient), self.pack(dense)
        return count, loss, self.pack(gradient) / scale, self.pack(dense) / scale

    def _loss_and_gradient(
        self, parameters: list[tf.Tensor], index: tf.Tensor, leaves: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Number of examples, loss and dense gradients of one micro-batch.

        The gradients are multiplied by the optimizer's loss scale, if it has one.
        """
        x, y, sample_weight = unflatten(self.batches.spec, leaves)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            loss = self._loss(parameters, index, x, y, sample_weight)
            scale = loss_scale(self.model, loss.dtype)
            scaled = loss if scale is None else loss * scale
        gradient = tape.gradient(
            scaled, parameters, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return num_rows(x), loss, [tf.convert_to_tensor(g) for g in gradient]

    def _loss(
        self, parameters: list[tf.Tensor], index: tf.Tensor, x: Any, y: Any, sample_weight: Any
    ) -> tf.Tensor:
        """The training loss of one micro-batch at given parameters, without side effects."""
        state = list(zip(self.variables, parameters, strict=True))
        state += [(v, _seed_of_batch(v, index)) for v in _seeds(self.model)]
        return training_loss(self.model, (x, y, sample_weight), state, self._loss_function)

    def _build_losses(self) -> None:
        """Let Keras create what it makes lazily at the first loss, outside of our traces."""
        if self._loss_function is not None:
            return
        if self.model._compile_loss is not None and not self.model._compile_loss.built:
            batch = tf.nest.map_structure(
                lambda s: None if s is None else keras.KerasTensor(s.shape, s.dtype.name),
                self.batches.spec,
            )
            self.model._symbolic_build(data_batch=batch)


class Linearisation:
    """Loss, gradient and Hessian-vector products of an `Objective` at fixed parameters.

    The Hessian is applied to a vector as the derivative of the gradient along it, reverse over
    reverse. What does not depend on the vector is computed once, here, and kept for as many
    micro-batches as `kept_bytes` hold; for the others it is computed again. A product
    then costs less than a gradient of a gradient, and memory does not grow with the number of
    examples.

    Attributes:
        loss: f(x), a float.
        gradient: ∇f(x), a tensor (n,).
        num_products: Products over all examples. A solve of an `operator` has to be added.
    """

    def __init__(self, objective: Objective, visitors: Sequence[Visitor] = ()) -> None:
        self.num_products = 0
        self._program = objective.program
        self._parts = parts = objective.parts
        self._batches = objective.batches
        self._parameters = [tf.convert_to_tensor(v.value) for v in objective.variables]
        self._device = _device_of(self._parameters)
        self._kept: list[list[tf.Tensor]] = []
        sizes: list[tf.Tensor] = []
        losses: list[tf.Tensor] = []
        gradient: Any = 0.0
        left = objective.room_for_values(self._device)
        for arguments in self._arguments():
            values = None
            if parts.linearisable and parts.num_bytes(*arguments) <= left:
                (count, batch_loss, batch_gradient), values = parts.first(*arguments)
                left -= num_bytes(values) or 0
            else:
                count, batch_loss, batch_gradient = parts.fixed(*arguments)
                left = -1
            if values is not None and left >= 0:
                self._kept.append(values)
            product = (
                functools.partial(parts.second, values=values)
                if values is not None
                else lambda vector, given=arguments: parts.whole(vector, *given)
            )
            for visit in visitors:
                visit(batch_gradient, product)
            sizes.append(count)
            losses.append(batch_loss)
            gradient += tf.cast(count, objective.dtype) * batch_gradient
        # Only now does the host wait for the device.
        counts = tf.stack(sizes).numpy().tolist() if sizes else []
        loss = sum(map(operator.mul, counts, tf.stack(losses).numpy().tolist() if losses else []))
        num_examples = float(sum(counts))
        if not num_examples:
            raise ValueError(
                "`data` must hold at least one batch. Received: a data set that yielded none"
            )
        self.loss = loss / num_examples
        self.gradient: tf.Tensor = gradient / num_examples
        self._weights = [tf.constant(count / num_examples, objective.dtype) for count in counts]

    def operator(self, scale: tf.Tensor) -> Matvec:
        """``S H S`` with a diagonal S, for a solver; its products are not counted here.

        Args:
            scale: Diagonal of S, shape (n,).

        Returns:
            An `Operator` if the values of all micro-batches are kept, otherwise a function.
        """
        if len(self._kept) < len(self._weights):
            return lambda vector: scale * self._product(scale * vector)
        return programs.operator(self._program, self._parts, scale, self._weights, self._kept)

    def hessian_product(self, vector: tf.Tensor) -> tf.Tensor:
        """``H v`` for a vector of shape (n,)."""
        self.num_products += 1
        return self._product(vector)

    def _product(self, vector: tf.Tensor) -> tf.Tensor:
        total = tf.zeros_like(vector)
        for weight, values in zip(self._weights, self._kept, strict=False):
            total += weight * self._parts.second(vector, values)
        num_kept = len(self._kept)
        if num_kept < len(self._weights):
            rest = zip(self._weights[num_kept:], self._arguments(num_kept), strict=True)
            for weight, arguments in rest:
                total += weight * self._parts.whole(vector, *arguments)
        return total

    def _arguments(self, begin: int = 0) -> Iterator[list[tf.Tensor]]:
        """What the parts take after the vector, a list for each micro-batch from `begin` on."""
        for index, leaves in enumerate(self._batches.on(self._device, begin), begin):
            yield [*self._parameters, tf.constant(index, tf.int64), *leaves]


def training_loss(
    model: keras.Model,
    batch: Nest,
    state: Iterable[tuple[keras.Variable, tf.Tensor]],
    loss: LossFunction | None = None,
) -> tf.Tensor:
    """The training loss of a batch, without side effects on the model.

    Args:
        model: A built and compiled Keras model.
        batch: The batch ``(x, y, sample_weight)``.
        state: Pairs of variables and the values that stand for theirs.
        loss: Function of the model and the batch; None (default) for the loss of `compile`.

    Returns:
        A scalar.
    """
    x, y, sample_weight = batch
    with keras.StatelessScope(state_mapping=list(state), collect_losses=True):
        if loss is not None:
            return tf.convert_to_tensor(loss(model, batch))
        training = {"training": True} if model._call_has_training_arg else {}
        value = model._compute_loss(
            x=x,
            y=y,
            y_pred=model(x, **training),
            sample_weight=sample_weight,
            training=True,
        )
    # Keras divides by the number of replicas, to sum over them later; here there is just one.
    return value * float(tf.distribute.get_strategy().num_replicas_in_sync)


def _device_of(tensors: Sequence[tf.Tensor]) -> str:
    """The device of the parameters; an accelerator, if any of them is on one."""
    devices = [tensor.device for tensor in tensors]
    return next((device for device in devices if not is_host(device)), devices[0])


def _check(
    model: keras.Model, variables: Sequence[keras.Variable], loss: LossFunction | None
) -> None:
    if loss is None and not model.built:
        raise ValueError(
            "The model has no parameters yet. Build it first, by calling it on a batch or by "
            f"`model.build(input_shape)`. Received: model={model.name!r}, not built"
        )
    if loss is None and not model.compiled:
        raise ValueError(
            "The curvature is that of the training loss. Call `model.compile(loss=..., "
            f"optimizer=...)` first. Received: model={model.name!r}, not compiled"
        )
    if not variables:
        raise ValueError(
            "The model has no trainable variables, so there is no curvature to measure. "
            f"Received: model={model.name!r}"
        )
    overwritten = [v.path for v in variables if getattr(v, "overwrite_with_gradient", False)]
    if overwritten:
        raise ValueError(
            "Some trainable variables take their gradient as their next value, as the scales of "
            "float8 layers do. It is not the gradient of the loss, so there is no Hessian. Train "
            "in another precision, such as mixed_bfloat16, to measure it. "
            f"Received: model={model.name!r} with {len(overwritten)} of them, {overwritten[0]!r} "
            "for one"
        )


def _seeds(model: keras.Model) -> list[keras.Variable]:
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]


def _seed_of_batch(variable: keras.Variable, index: tf.Tensor) -> tf.Tensor:
    """A seed state of its own for each micro-batch: (seed, counter) with the counter moved on."""
    state = tf.convert_to_tensor(variable.value)
    return state + tf.cast(tf.stack([tf.zeros_like(index), index * 65_536]), state.dtype)
