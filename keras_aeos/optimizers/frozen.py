"""Adam with a preconditioner that is given and does not change."""

import pathlib

import keras
import numpy as np
from keras import ops

from keras_aeos.optimizers.adam import Adam
from keras_aeos.optimizers.dynamics import unwrap


@keras.saving.register_keras_serializable(package="keras_aeos")
class FrozenAdam(Adam):
    """Adam with a fixed second moment: EMA heavy ball preconditioned by a constant P.

    ``m⁺ = β₁m + (1-β₁)g``, ``x⁺ = x - η P⁻¹ m⁺`` with ``P = √ν + ε``, ν as given. On
    a quadratic this is a linear recurrence, with the stability threshold ``(2+2β₁)/((1-β₁)η)``.

    A saved model brings its second moments back by itself; a configuration does not hold them.

    Args:
        learning_rate: Step size η: a float, a `LearningRateSchedule` or a callable.
        second_moments: ν: an optimizer whose `second_moments` are copied now, a list of arrays of
            the trainable variables' shapes in the model's order, or the path of an ``.npz`` file
            as `save_second_moments` writes it or of a ``.keras`` model saved with its optimizer.
        beta_1: Decay β₁ of the averaged gradient, in [0, 1).
        epsilon: Constant ε added to the root.
        name: Name of the optimizer.
        **kwargs: Base arguments of Keras optimizers (`weight_decay`, `clipnorm`, ...).

    Raises:
        ValueError: If `second_moments` can't be read, is not finite and nonnegative, or (in
            `build`) does not match the variables.

    Attributes:
        first_moments: List of m, one per variable, of the variable's shape and dtype; available
            after `build`.
        second_moments: List of ν, likewise.

    References:
        Cohen et al. 2022, Figure 3.
    """

    def __init__(
        self,
        learning_rate=0.001,
        second_moments=None,
        beta_1=0.9,
        epsilon=1e-7,
        name="frozen_adam",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            epsilon=epsilon,
            bias_correction=False,
            name=name,
            **kwargs,
        )
        self._given = None if second_moments is None else read_second_moments(second_moments)

    def build(self, variables):
        """Create m, zero, and ν, as given, for each variable."""
        if self.built:
            return
        shapes = [tuple(v.shape) for v in variables]
        given = shapes if self._given is None else [array.shape for array in self._given]
        if given != shapes:
            raise ValueError(
                "The second moments must match the trainable variables one by one. "
                f"Expected: shapes {shapes}. Received: second_moments of shapes {given}"
            )
        super().build(variables)

    def add_second_moments(self):
        """ν as given; zero until they are loaded if they were not given."""
        return self.add_slots("second_moment", self._given)

    def apply(self, grads, trainable_variables=None):
        """Update the variables; see the base class.

        Raises:
            ValueError: If there are no second moments, given or loaded.
        """
        if self._given is None:
            raise ValueError(
                "FrozenAdam has no second moments to keep. Pass them to the constructor, or load "
                "them with the model that was saved with them. Received: second_moments=None"
            )
        super().apply(grads, trainable_variables)

    def load_own_variables(self, store):
        """Take the second moments from a saved model."""
        super().load_own_variables(store)
        self._given = _arrays(self.second_moments)

    def accumulate(self, index, gradient, variable):
        """Nothing: ν stays."""

    def get_config(self):
        """Constructor arguments, without the second moments."""
        config = super().get_config()
        for fixed in ("beta_2", "bias_correction"):
            del config[fixed]
        return config


def read_second_moments(source):
    """Second moments as a list of NumPy arrays, one per trainable variable, of its shape.

    Args:
        source: An optimizer, a list of arrays or the path of a file, as for `FrozenAdam`.

    Raises:
        ValueError: If there are none in `source`, or one is negative or not finite.
    """
    if isinstance(source, (str, pathlib.Path)):
        moments = _read_file(pathlib.Path(source))
    elif isinstance(source, keras.optimizers.Optimizer):
        moments = _arrays(_second_moments(source))
    else:
        moments = _arrays(source)
    if not moments:
        raise ValueError(
            "Expected an optimizer of keras_aeos.optimizers that has made an update and keeps a "
            f"second moment, a list of arrays or a file of them. Received: {source!r}"
        )
    for number, moment in enumerate(moments):
        if not (np.isfinite(moment).all() and (moment >= 0).all()):
            raise ValueError(
                "Second moments are averages of squares: expected finite numbers >= 0. "
                f"Received: second_moments[{number}] with values from {moment.min()} to "
                f"{moment.max()}"
            )
    return moments


def save_second_moments(optimizer, path):
    """Write an optimizer's second moments to an ``.npz`` file, in the order of the variables."""
    np.savez(path, *read_second_moments(optimizer))


def _read_file(path):
    if path.suffix == ".keras":
        return _arrays(_second_moments(keras.saving.load_model(path).optimizer))
    if path.suffix == ".npz":
        with np.load(path) as file:
            return [file[name] for name in file.files]
    raise ValueError(f"Expected an .npz or a .keras file. Received: second_moments={str(path)!r}")


def _second_moments(optimizer):
    optimizer = unwrap(optimizer)
    # The second name is that of Keras's Adam, AdamW, Nadam and RMSprop.
    return getattr(optimizer, "second_moments", None) or getattr(optimizer, "_velocities", [])


def _arrays(moments):
    """NumPy arrays of second moments; factored ones are multiplied out."""
    arrays = []
    for moment in moments:
        if isinstance(moment, tuple):
            row, column = (ops.convert_to_numpy(part) for part in moment)
            row = row / row.mean(axis=-1, keepdims=True)
            arrays.append(row[..., None] * column[..., None, :])
        else:
            arrays.append(np.asarray(ops.convert_to_numpy(moment)))
    return arrays
