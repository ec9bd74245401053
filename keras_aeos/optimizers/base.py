"""Base class of the optimizers that know their own preconditioner."""

import keras
import tensorflow as tf
from keras import ops


class PreconditionedOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer of the form ``x⁺ = x - η P⁻¹ m⁺`` with a diagonal P.

    A subclass states four things, each close to its equation: `momentum_kind`, `accumulate` (the
    second moment ν), `momentum_term` (m) and `diagonal` (P). The update and what
    `keras_aeos.preconditioner` reports both call `diagonal`, so they can't disagree.
    """

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable: ``ν⁺``, ``m⁺``, then ``x⁺ = x - η m⁺ / P⁺``."""
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        self.accumulate(index, gradient)
        step = ops.multiply(
            ops.cast(learning_rate, variable.dtype), self.momentum_term(index, gradient)
        )
        diagonal = self.diagonal(index, ops.cast(self.iterations + 1, variable.dtype))
        self.assign_sub(variable, ops.divide(step, diagonal))

    def add_slots(self, variables, name):
        """A list of zero variables, one like each of the given ones, kept with the optimizer."""
        return [self.add_variable_from_reference(v, name=name) for v in variables]

    def momentum_kind(self):
        """How the momentum follows from gradients, a `keras_aeos.stability.Momentum`."""
        raise NotImplementedError

    def accumulate(self, index, gradient):
        """Update the second-moment accumulator of variable number `index`."""

    def momentum_term(self, index, gradient):
        """Update the momentum of variable number `index` and return what is stepped along."""
        return gradient

    def diagonal(self, index, step):
        """Diagonal of P of variable number `index` after update number `step` (from 1)."""
        raise NotImplementedError

    def diagonals(self):
        """Diagonal of P in the last update, a list of tensors, one per variable."""
        return [
            tf.broadcast_to(
                tf.convert_to_tensor(
                    self.diagonal(index, ops.cast(self.iterations, variable.dtype)),
                    variable.dtype,
                ),
                variable.shape,
            )
            for index, variable in enumerate(self._trainable_variables)
        ]


def exponential_average(optimizer, average, decay, value):
    """In place: ``average ← decay * average + (1 - decay) * value``."""
    optimizer.assign_add(average, ops.multiply(ops.subtract(value, average), 1.0 - decay))
