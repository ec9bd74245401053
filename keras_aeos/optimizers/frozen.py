"""Adam with a preconditioner that is given and does not change."""

import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_aeos import array_files
from keras_aeos.optimizers.adam import Adam
from keras_aeos.optimizers.base import LearningRate
from keras_aeos.optimizers.dynamics import unwrap

# An optimizer that has second moments, arrays, or the path of a file of them.
SecondMoments: TypeAlias = keras.optimizers.Optimizer | Sequence[Any] | str | pathlib.Path


@keras.saving.register_keras_serializable(package="keras_aeos")
class FrozenAdam(Adam):
    """Adam with a fixed second moment: EMA heavy ball preconditioned by a constant P.

    ``m⁺ = β₁m + (1-β₁)g``, ``x⁺ = x - η P⁻¹ m⁺`` with ``P = √ν + ε``, ν as given. On
    a quadratic this is a linear recurrence, with the stability threshold ``(2+2β₁)/((1-β₁)η)``.

    A saved model brings its second moments back by itself; a configuration does not hold them.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Step size η, 0.001 by default.
        second_moments: ν: an optimizer, whose `second_moments` are copied now; a list of arrays of
            the trainable variables' shapes, in the model's order; or the path of an ``.npz`` file
            by `save_second_moments` or of a ``.keras`` model saved with its optimizer. None
            (default) if they are loaded later, with a saved model.
        beta_1: Float in [0, 1). Decay β₁ of the averaged gradient, 0.9 by default.
        epsilon: Float of at least 0. Constant ε added to the root, 1e-7 by default.
        name: String. Name of the optimizer, "frozen_adam" by default.
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
        learning_rate: LearningRate = 0.001,
        second_moments: SecondMoments | None = None,
        beta_1: float = 0.9,
        epsilon: float = 1e-7,
        name: str = "frozen_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            epsilon=epsilon,
            bias_correction=False,
            name=name,
            **kwargs,
        )
        self._given = None if second_moments is None else read_second_moments(second_moments)

    def build(self, variables: Sequence[keras.Variable]) -> None:
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

    def add_second_moments(self) -> list[keras.Variable]:
        """ν as given; zero until they are loaded if they were not given."""
        return self.add_slots("second_moment", self._given)

    def apply(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
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

    def load_own_variables(self, store: Any) -> None:
        """Take the second moments from a saved model."""
        super().load_own_variables(store)
        # A copy of an optimizer that is not built comes here without variables.
        if self.built:
            self._given = _arrays(self.second_moments)

    def accumulate(self, index: int, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Nothing: ν stays."""

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, without the second moments."""
        config = super().get_config()
        for fixed in ("beta_2", "bias_correction"):
            del config[fixed]
        return config


def read_second_moments(source: SecondMoments) -> list[np.ndarray]:
    """Second moments as a list of NumPy arrays, one per trainable variable, of its shape.

    Args:
        source: An optimizer, a list of arrays or the path of a file, as for `FrozenAdam`.

    Raises:
        ValueError: If there are none in `source`, it is a file that can't be read, or one is not
            a number, negative or not finite.
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
        if not np.can_cast(moment.dtype, np.float64):
            raise ValueError(
                "Second moments are real numbers. "
                f"Received: second_moments[{number}] of dtype {moment.dtype}"
            )
        if not (np.isfinite(moment).all() and (moment >= 0).all()):
            raise ValueError(
                "Second moments are averages of squares: expected finite numbers >= 0. "
                f"Received: second_moments[{number}] with values from {moment.min()} to "
                f"{moment.max()}"
            )
    return moments


def save_second_moments(optimizer: keras.optimizers.Optimizer, path: str | pathlib.Path) -> None:
    """Write an optimizer's second moments to an ``.npz`` file, in the order of the variables.

    The file is written whole or not at all.
    """
    path = pathlib.Path(path)
    arrays = {f"arr_{i}": moment for i, moment in enumerate(read_second_moments(optimizer))}
    array_files.write(path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz"), arrays)


def _read_file(path: pathlib.Path) -> list[np.ndarray]:
    received = f"Received: second_moments={str(path)!r}"
    if path.suffix not in (".keras", ".npz"):
        raise ValueError(f"Expected an .npz or a .keras file. {received}")
    try:
        if path.suffix == ".keras":
            return _arrays(_second_moments(keras.saving.load_model(path).optimizer))
        arrays, _ = array_files.read(path)
        return list(arrays.values())
    except (EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            "Expected a file that `save_second_moments` or `model.save` has written; this one is "
            f"of another kind or damaged: {error or type(error).__name__}. {received}"
        ) from error


def _second_moments(optimizer: keras.optimizers.Optimizer) -> Sequence[Any]:
    optimizer = unwrap(optimizer)
    # The second name is that of Keras's Adam, AdamW, Nadam and RMSprop.
    return getattr(optimizer, "second_moments", None) or getattr(optimizer, "_velocities", [])


def _arrays(moments: Sequence[Any]) -> list[np.ndarray]:
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
