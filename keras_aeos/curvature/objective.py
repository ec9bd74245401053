"""The training loss of a Keras model as a function of its parameters, and its derivatives."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.curvature import programs
from keras_aeos.curvature.batch_visits import Visitor
from keras_aeos.curvature.batches import MicroBatches, flatten, num_rows, unflatten
from keras_aeos.curvature.compilation import CompilationTrial
from keras_aeos.curvature.device_memory import is_host, room
from keras_aeos.curvature.first_order import FirstOrder
from keras_aeos.curvature.linearisation import Linearisation
from keras_aeos.curvature.loss import LossFunction, seeds_of_batch, training_loss
from keras_aeos.curvature.loss_scaling import loss_scale
from keras_aeos.curvature.partial_evaluation import PartialEvaluation
from keras_aeos.curvature.replicas import Replicas
from keras_aeos.curvature.second_derivatives import exact_second_derivatives, refuse_inexact
from keras_aeos.solvers.operators import Program


class Objective:
    """Mean training loss over micro-batches, its gradient and Hessian-vector products.

    The loss is what `fit` minimises, in training mode: all outputs and loss weights, regularisers
    and added losses, batch statistics in BatchNorm, and dropout with a mask that stays the same
    until the model's seeds move on. With ``n_b`` the examples of micro-batch b,

        f(x) = Σ_b (n_b / Σ n_b) f_b(x),

    which for losses that average over examples equals the loss of one batch of all examples
    (BatchNorm layers see the statistics of their micro-batch). Nothing of the model changes when
    it is evaluated: variables, BatchNorm statistics, seeds and metrics are left alone.

    Under a strategy with several replicas each batch is cut into a micro-batch for each of them, as
    in training, and the replicas share the work (`Replicas`).

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
        kept_bytes: Bytes of intermediate values that a linearisation may keep on each device; None
            for the device's `room`.
        replicas: The `Replicas` of the model.
        sizes: Number of parameters of each variable.

    Raises:
        ValueError: If the model is not built or not compiled, has nothing to train, or has
            variables that are overwritten by their gradient, as in float8; or if its strategy has
            no single point to measure at.
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
        self.replicas = Replicas(model, self.variables)
        self.batches = batches
        self.kept_bytes: int | None = None
        self._loss_function = loss
        dtypes = [tf.float32, *(tf.as_dtype(v.dtype) for v in self.variables)]
        self.dtype = max(dtypes, key=lambda d: d.size)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self.sizes = [int(tf.TensorShape(shape).num_elements()) for shape in self._shapes]
        self.num_parameters = sum(self.sizes)
        self._build_losses()
        self._traced = tf.function(
            self._product_of_batch,
            input_signature=[
                tf.TensorSpec([self.num_parameters], self.dtype),
                [tf.TensorSpec(v.shape, v.dtype) for v in self.variables],
                tf.TensorSpec([], tf.int64),
                *flatten(self.batches.spec),
            ],
            autograph=False,
        )

    @property
    def batches(self) -> MicroBatches:
        """The micro-batches, cut for the replicas."""
        return self._batches

    @batches.setter
    def batches(self, given: MicroBatches) -> None:
        self._batches = self.replicas.cut(given)

    @property
    def num_traces(self) -> int:
        """Traces made so far: 1, once used."""
        return self._traced.experimental_get_tracing_count()

    def linearise(self, visitors: Sequence[Visitor] = ()) -> Linearisation:
        """Loss, gradient and Hessian at the model's present parameters.

        Args:
            visitors: Each is called with the gradient (n,) of each batch, as it was before it was
                cut for replicas, and the function that multiplies a vector (n,) by its Hessian, in
                order. In several workers they have to ask for the same products.

        Returns:
            A `Linearisation`.
        """
        made = Linearisation(
            self.program, self.parts, self.replicas, self.batches, self.room_for_values, visitors
        )
        # Workers time differently, and have to run the same graph.
        if not self.replicas.of_workers and self._trial.consider(made.gradient, made.kept):
            del self.program  # its traces hold the products as they were
        return made

    def room_for_values(self, device: str) -> int:
        """Bytes of intermediate values that a linearisation may keep on a device."""
        if self.kept_bytes is not None:
            return self.kept_bytes
        if is_host(device):  # the devices of a host share its memory
            return room(device) // len(self.replicas.devices)
        # The peak of memory is that of training only until something has been measured.
        self.kept_bytes = room(device)
        return self.kept_bytes

    def pack(self, tensors: Iterable[tf.Tensor]) -> tf.Tensor:
        """Flat vector (n,) of a list of tensors, one per trainable variable."""
        return tf.concat([tf.reshape(tf.cast(t, self.dtype), [-1]) for t in tensors], axis=0)

    def unpack(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """List of tensors of the trainable variables' shapes and dtypes, from a vector (n,)."""
        parts = tf.split(vector, self.sizes)
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
    def first_order(self) -> FirstOrder:
        """Loss and gradient without second derivatives, which need not exist."""
        return FirstOrder(
            self._loss,
            self._loss_and_gradient,
            self.variables,
            self.batches.spec,
            self.replicas,
            self.dtype,
        )

    @functools.cached_property
    def _trial(self) -> CompilationTrial:
        return CompilationTrial(self.parts)

    @functools.cached_property
    def program(self) -> Program:
        """The products as a solver's graph holds them."""
        return programs.program(self.parts, self.replicas)

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
        state += seeds_of_batch(self.model, index)
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
