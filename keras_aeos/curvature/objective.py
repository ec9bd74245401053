"""The training loss of a Keras model as a function of its parameters, with its derivatives."""

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import flatten, unflatten
from keras_aeos.curvature.exact import exact_second_derivatives


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
    widest of their dtypes.

    Args:
        model: A built and compiled Keras model. Variables that are trainable now are its
            parameters.
        batches: A `keras_aeos.curvature.batches.MicroBatches`.

    Raises:
        ValueError: If the model is not built or not compiled, or has nothing to train.
    """

    def __init__(self, model, batches):
        _check(model)
        self.model = model
        self.batches = batches
        self.variables = list(model.trainable_variables)
        self.dtype = max((tf.as_dtype(v.dtype) for v in self.variables), key=lambda d: d.size)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self._sizes = [int(tf.TensorShape(shape).num_elements()) for shape in self._shapes]
        self.num_parameters = sum(self._sizes)
        self._build_losses()

        vector = tf.TensorSpec([self.num_parameters], self.dtype)
        index = tf.TensorSpec([], tf.int64)
        leaves = flatten(batches.spec)
        self._traced_gradient = tf.function(
            self._gradient_of_batch, input_signature=[index, *leaves], autograph=False
        )
        self._traced_product = tf.function(
            self._product_of_batch,
            input_signature=[vector, vector, index, *leaves],
            autograph=False,
        )

    @property
    def num_traces(self):
        """Traces made so far of the gradient and of the product: 1 each, once used."""
        return (
            self._traced_gradient.experimental_get_tracing_count(),
            self._traced_product.experimental_get_tracing_count(),
        )

    def loss_and_gradient(self):
        """``(f(x), ∇f(x))`` at the model's present parameters: a float and a tensor (n,)."""
        return self._mean(self._traced_gradient)

    def hessian_product(self, vector, scale):
        """``S H S v`` at the model's present parameters, with a diagonal S.

        Args:
            vector: v, shape (n,).
            scale: Diagonal of S, shape (n,): ones for the Hessian H itself, the diagonal of
                ``P^-½`` for the preconditioned Hessian ``P^-½ H P^-½``.

        Returns:
            Tensor of shape (n,).
        """
        _, product = self._mean(lambda *batch: self._traced_product(vector, scale, *batch))
        return product

    def pack(self, tensors):
        """Flat vector (n,) of a list of tensors, one per trainable variable."""
        return tf.concat([tf.reshape(tf.cast(t, self.dtype), [-1]) for t in tensors], axis=0)

    def unpack(self, vector):
        """List of tensors of the trainable variables' shapes and dtypes, from a vector (n,)."""
        parts = tf.split(vector, self._sizes)
        return [
            tf.cast(tf.reshape(part, shape), variable.dtype)
            for part, shape, variable in zip(parts, self._shapes, self.variables, strict=True)
        ]

    def _mean(self, function):
        """Mean of ``(scalar, vector)`` over the examples of all micro-batches."""
        total = None
        for index, leaves in enumerate(self.batches):
            count, *values = function(tf.constant(index, tf.int64), *leaves)
            values = [tf.cast(count, v.dtype) * v for v in values]
            if total is None:
                total, num_examples = values, count
            else:
                total = [t + v for t, v in zip(total, values, strict=True)]
                num_examples += count
        if total is None:
            raise ValueError(
                "`data` must hold at least one batch. Received: a data set that yielded none"
            )
        scalar, vector = (t / tf.cast(num_examples, t.dtype) for t in total)
        return float(scalar), vector

    def _gradient_of_batch(self, index, *leaves):
        parameters = self._parameters()
        count, loss, gradient = self._loss_and_gradient(parameters, index, leaves)
        return count, loss, self.pack(gradient)

    def _product_of_batch(self, vector, scale, index, *leaves):
        parameters = self._parameters()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            count, loss, gradient = self._loss_and_gradient(parameters, index, leaves)
        product = tape.gradient(
            gradient,
            parameters,
            output_gradients=self.unpack(scale * vector),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return count, loss, scale * self.pack([tf.convert_to_tensor(p) for p in product])

    def _loss_and_gradient(self, parameters, index, leaves):
        """Number of examples, loss and dense gradients of one micro-batch."""
        x, y, sample_weight = unflatten(self.batches.spec, leaves)
        with (
            exact_second_derivatives(),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(parameters)
            loss = self._loss(parameters, index, x, y, sample_weight)
        gradient = tape.gradient(
            loss, parameters, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        count = tf.shape(flatten(x)[0])[0]
        return count, loss, [tf.convert_to_tensor(g) for g in gradient]

    def _loss(self, parameters, index, x, y, sample_weight):
        """The training loss of one micro-batch at given parameters, without side effects."""
        state = list(zip(self.variables, parameters, strict=True))
        state += [(v, _seed_of_batch(v, index)) for v in _seeds(self.model)]
        with keras.StatelessScope(state_mapping=state, collect_losses=True):
            training = {"training": True} if self.model._call_has_training_arg else {}
            loss = self.model._compute_loss(
                x=x,
                y=y,
                y_pred=self.model(x, **training),
                sample_weight=sample_weight,
                training=True,
            )
        # Keras divides by the number of replicas, to sum over them later; here there is just one.
        return loss * float(tf.distribute.get_strategy().num_replicas_in_sync)

    def _parameters(self):
        return [tf.convert_to_tensor(v.value) for v in self.variables]

    def _build_losses(self):
        """Let Keras create what it makes lazily at the first loss, outside of our traces."""
        if self.model._compile_loss is not None and not self.model._compile_loss.built:
            batch = tf.nest.map_structure(
                lambda s: None if s is None else keras.KerasTensor(s.shape, s.dtype.name),
                self.batches.spec,
            )
            self.model._symbolic_build(data_batch=batch)


def _check(model):
    if not model.built:
        raise ValueError(
            "The model has no parameters yet. Build it first, by calling it on a batch or by "
            f"`model.build(input_shape)`. Received: model={model.name!r}, not built"
        )
    if not model.compiled:
        raise ValueError(
            "The curvature is that of the training loss. Call `model.compile(loss=..., "
            f"optimizer=...)` first. Received: model={model.name!r}, not compiled"
        )
    if not model.trainable_variables:
        raise ValueError(
            "The model has no trainable variables, so there is no curvature to measure. "
            f"Received: model={model.name!r}"
        )


def _seeds(model):
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]


def _seed_of_batch(variable, index):
    """A seed state of its own for each micro-batch: (seed, counter) with the counter moved on."""
    state = tf.convert_to_tensor(variable.value)
    return state + tf.cast(tf.stack([tf.zeros_like(index), index * 65_536]), state.dtype)
