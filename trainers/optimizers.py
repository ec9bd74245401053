"""The optimizer of a run and its learning rate."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf
from keras import ops

import keras_aeos
from trainers import schema
from trainers.errors import UserError


def build_optimizer(section: schema.Optimizer, **arguments: Any) -> keras.optimizers.Optimizer:
    """Build the optimizer of an `optimizer` section, with further arguments of Keras optimizers.

    Raises:
        UserError: The file of second moments can't be read.
    """
    optimizer = getattr(keras_aeos.optimizers, type(section).__name__)
    try:
        return optimizer(**{**dataclasses.asdict(section), **arguments})
    except (OSError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error


def learning_rate(
    config: schema.Config,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of a run."""
    rate = config.optimizer.learning_rate
    if not config.schedule.warmup_steps:
        return rate
    return WarmUp(rate, **dataclasses.asdict(config.schedule))


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    r"""Linear warm-up over N updates to η, then constant or the inverse square root.

    In update number t, counted from 1,

        η(t) = η t / N          for t ≤ N,
        η(t) = η or η √(N / t)  for t > N.

    The stability threshold follows it: for Adam with β₁ = 0.9, λ*(t) = 38 / η(t).

    Args:
        learning_rate: η, the largest value.
        warmup_steps: N; 0 for none.
        after: "constant" or "inverse_square_root".

    Example:
        >>> [float(WarmUp(1.0, 4)(step)) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]

    References:
        Cohen et al. 2022, Figure 7; Vaswani et al., "Attention is all you need", 2017, Equation 3.
    """

    def __init__(
        self,
        learning_rate: float,
        warmup_steps: int,
        after: str = "constant",
    ) -> None:
        if after not in ("constant", "inverse_square_root"):
            raise ValueError(
                f"`after` must be 'constant' or 'inverse_square_root'. Received: after={after!r}"
            )
        self._settings: dict[str, Any] = {
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "after": after,
        }

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """η of the update that Keras makes at `step`, a float32 scalar."""
        settings = self._settings
        rate, warm, after = settings["learning_rate"], settings["warmup_steps"], settings["after"]
        update = ops.cast(ops.cast(step, "int64") + 1, "float32")
        later = ops.sqrt(warm / ops.maximum(update, 1.0)) if after != "constant" and warm else 1.0
        return rate * ops.where(update <= warm, update / max(warm, 1), later)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return dict(self._settings)
