"""Base class of the optimizers that know their own preconditioner."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from keras_aeos import constraints
from keras_aeos.stability import Momentum

LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], float]
)


class PreconditionedOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer of the form ``x⁺ = (1 - ηw) x - η P⁻¹ m̃`` with a diagonal P.

    The members of the family differ in four places, and a subclass states those in which it differs
    from plain gradient descent:

    - accumulator: `accumulate` updates the second moment ν (none by default);
    - root: `root` makes P of ν, up to a scalar (1 by default);
    - bias correction: `scale` is that scalar (1 by default);
    - momentum: `momentum` makes m̃ of the gradients (none by default).

    The update and what `keras_aeos.preconditioner` reports both take ``P = scale · root``, so they
    can't disagree.

    After `freeze` the second moment and the step number in P stay what they are. The state of the
    momentum, the learning rate and the weight decay are not affected.

    The update of a variable in half precision is computed in float32, unlike in stock Keras; its
    slots and P are in float32 too. In float16 ε and ``(1-β₂)g²`` would vanish. In bfloat16 an
    average with β₂ near 1 would stand still.

    Attributes:
        second_moments: List of ν, one variable per trainable variable, of its shape and dtype
            (float32 if that is half precision); empty for an optimizer without an accumulator.
            Available after `build`.
        first_moments: List of the momentum buffers m, likewise; empty without momentum.
    """

    # Whether the momentum buffer holds gradients, or gradients divided by P.
    momentum_of_preconditioned = False
    # Arguments of the Keras optimizer of the same name that have no place here, with the remedy.
    not_supported: ClassVar[dict[str, str]] = {}

    def __init__(self, learning_rate: LearningRate, name: str, **kwargs: Any) -> None:
        constraints.check(learning_rate=learning_rate)
        check_supported(kwargs, self.not_supported, type(self).__name__)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the optimizer's variables for a list of trainable variables."""
        if self.built:
            return
        super().build(variables)
        # The number of updates at which the preconditioner was frozen; 0 if it was not.
        self.frozen_at = self.add_variable(
            shape=(), dtype="int", name="frozen_at", aggregation="only_first_replica"
        )
        self.first_moments = self.add_slots("first_moment") if self.momentum().beta else []
        self.second_moments: list[Any] = []

    def freeze(self) -> None:
        """Keep P as it is from now on; takes effect in training functions that exist already.

        Raises:
            ValueError: If the optimizer has not made an update yet: P is not defined before.

        References:
            Cohen et al. 2022, Appendix D and Figure 16.
        """
        num_updates = int(ops.convert_to_numpy(self.iterations)) if self.built else 0
        if num_updates == 0:
            raise ValueError(
                "The preconditioner is defined by the last update, and this optimizer has made "
                "none. Train for at least one step, then freeze. Received: iterations=0"
            )
        if int(ops.convert_to_numpy(self.frozen_at)) == 0:
            self.frozen_at.assign(num_updates)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """One update of one variable: ``ν⁺``, then ``m̃``, then ``x⁺ = x - η P⁻¹ m̃``."""
        index = self._get_variable_index(variable)
        step = self._preconditioner_step(self.iterations + 1)
        dtype = slot_dtype(variable)
        learning_rate = ops.cast(learning_rate, dtype)
        gradient = ops.cast(gradient, dtype)
        if self.first_moments or self.second_moments:
            # Every coordinate moves, not only those that the slices name.
            gradient = tf.convert_to_tensor(gradient)
        if self.second_moments:
            self.accumulate(index, gradient, variable)
        scale, root = self.scale(index, step), self.root(index, step)
        if self.momentum_of_preconditioned:
            update = self._momentum_term(index, _divide(gradient, scale, root), learning_rate)
        else:
            update = _divide(self._momentum_term(index, gradient, learning_rate / scale), 1.0, root)
        self.assign_sub(variable, update)

    def momentum(self) -> Momentum:
        """The momentum recurrence, a `keras_aeos.stability.Momentum`."""
        return Momentum.none()

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update the second moment of variable number `index`, unless frozen."""

    def root(self, index: int, step: tf.Tensor) -> tf.Tensor | None:
        """P of variable number `index` at update number `step`, by `scale`; None stands for 1."""

    def scale(self, index: int, step: tf.Tensor) -> tf.Tensor | float:
        """Scalar factor of P of variable number `index` at update number `step`."""
        return 1.0

    def diagonals(self) -> list[tf.Tensor]:
        """Diagonal of P in the last update, a list of tensors, one per trainable variable."""
        step = self._preconditioner_step(self.iterations)
        diagonals = []
        for index, variable in enumerate(self._trainable_variables):
            scale, root = self.scale(index, step), self.root(index, step)
            if root is None:
                root = tf.ones(variable.shape, slot_dtype(variable))
            diagonals.append(ops.multiply(scale, root))
        return diagonals

    def add_slots(self, name: str, values: Sequence[Any] | None = None) -> list[keras.Variable]:
        """A list of variables, one like each trainable variable; zero unless `values` are given.

        They are made with their values, so that this works while a training function is traced.
        """
        initializers: list[Any] = ["zeros"] * len(self._trainable_variables)
        if values is not None:
            initializers = [lambda shape, dtype, v=v: ops.cast(v, dtype) for v in values]
        return [
            self.add_slot(variable, name, initializer)
            for variable, initializer in zip(self._trainable_variables, initializers, strict=True)
        ]

    def add_slot(
        self, variable: keras.Variable, name: str, initializer: Any = "zeros"
    ) -> keras.Variable:
        """A variable like `variable`, in float32 if that is in half precision."""
        dtype = slot_dtype(variable)
        if dtype == keras.backend.standardize_dtype(variable.dtype):
            return self.add_variable_from_reference(variable, name=name, initializer=initializer)
        return self.add_variable(variable.shape, initializer=initializer, dtype=dtype, name=name)

    def exponential_average(
        self, average: keras.Variable, rate: tf.Tensor | float, value: tf.Tensor
    ) -> None:
        """In place: ``average ← (1 - rate) · average + rate · value``."""
        self.assign_add(average, ops.multiply(ops.subtract(value, average), rate))

    def unfrozen(self, dtype: Any) -> tf.Tensor:
        """1 as long as the preconditioner follows the gradients, 0 once it is frozen."""
        return ops.cast(ops.equal(self.frozen_at, 0), dtype)

    def _preconditioner_step(self, num_updates: tf.Tensor) -> tf.Tensor:
        """Number of the update at which P stands, from 1: the last one, unless frozen earlier."""
        return ops.where(ops.equal(self.frozen_at, 0), num_updates, self.frozen_at)

    def _momentum_term(
        self, index: int, gradient: tf.Tensor, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """``m⁺ = βm + γg`` in place; returns ``η m̃ = η(c m⁺ + d g)``."""
        momentum = self.momentum()
        if not momentum.beta:
            return ops.multiply(learning_rate, gradient)
        buffer = self.first_moments[index]
        if momentum.gradient_weight == 1.0:
            self.assign(buffer, ops.add(ops.multiply(momentum.beta, buffer), gradient))
        else:
            self.exponential_average(buffer, momentum.gradient_weight, gradient)
        term = ops.multiply(learning_rate * momentum.buffer_share, buffer)
        if momentum.gradient_share:
            direct = ops.multiply(learning_rate * momentum.gradient_share, gradient)
            term = ops.add(term, direct)
        return term


def _divide(tensor: tf.Tensor, scale: tf.Tensor | float, root: tf.Tensor | None) -> tf.Tensor:
    """``tensor / (scale · root)``, without the divisions by one."""
    if root is not None:
        tensor = ops.divide(tensor, root)
    return tensor if isinstance(scale, float) and scale == 1.0 else ops.divide(tensor, scale)


def slot_dtype(variable: keras.Variable | tf.Variable) -> str:
    """The dtype in which a variable's update is computed: its own, or float32 for a shorter one."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def corrected_decay(decay: float, step: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Bias correction ``1 - decayᵗ`` of an exponential average after `step` updates from zero."""
    # A cast would round the decay to float32 first.
    return 1.0 - ops.power(ops.convert_to_tensor(decay, dtype), ops.cast(step, dtype))


def keras_spelling(kwargs: dict[str, Any], theirs: str, ours: str, value: Any, default: Any) -> Any:
    """The value of our argument `ours`, which `kwargs` may hold under its Keras name `theirs`.

    Raises:
        ValueError: If both are given.
    """
    if theirs not in kwargs:
        return value
    if value != default:
        raise ValueError(
            f"`{theirs}` is Keras' name of `{ours}`. Give one of them. "
            f"Received: {ours}={value!r}, {theirs}={kwargs[theirs]!r}"
        )
    warnings.warn(
        f"`{theirs}` is accepted as in Keras; here the argument is called `{ours}`.", stacklevel=3
    )
    return kwargs.pop(theirs)


def check_supported(kwargs: dict[str, Any], not_supported: dict[str, str], name: str) -> None:
    """Refuse arguments of Keras that have no place here, and drop those that change nothing."""
    for argument, remedy in not_supported.items():
        value = kwargs.pop(argument, None)
        if value:
            raise ValueError(
                f"{name} has no argument `{argument}`. {remedy} Received: {argument}={value!r}"
            )
