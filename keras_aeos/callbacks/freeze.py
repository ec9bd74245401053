"""The callback that freezes an optimizer's preconditioner at a given step."""

from typing import Any

import keras

from keras_aeos import constraints
from keras_aeos.optimizers import dynamics
from keras_aeos.optimizers.base import PreconditionedOptimizer


class FreezePreconditioner(keras.callbacks.Callback):
    """Freezes the preconditioner of the model's optimizer after update number `step`.

    From then on P stays as it was in that update. Momentum, learning rate and weight decay are not
    affected. With several steps per execution P is frozen at the end of the execution that reaches
    `step`.

    Args:
        step: Positive integer. Number of the last update in which P follows the gradients.

    Raises:
        ValueError: If `step` is not a positive integer.
        TypeError: At the beginning of `fit`, if the optimizer is not one of
            `keras_aeos.optimizers`.

    Example:
        ```python
        model.compile(keras_aeos.optimizers.Adam(2e-5), loss)
        model.fit(x, y, callbacks=[AEoSMonitor(), FreezePreconditioner(step=6000)])
        ```

    References:
        Cohen et al. 2022, Appendix D and Figure 16.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        constraints.check(step=step)
        self.step = step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the optimizer can be frozen."""
        optimizer = dynamics.unwrap(self.model.optimizer)
        if not isinstance(optimizer, PreconditionedOptimizer):
            raise TypeError(
                "Only an optimizer of keras_aeos.optimizers can be frozen; compile the model with "
                f"the one of the same name. Received: optimizer={type(optimizer).__name__}"
            )
        self._optimizer = optimizer
        self._frozen = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Freeze once the number of updates has reached `step`."""
        if not self._frozen and dynamics.num_updates(self._optimizer) >= self.step:
            self._optimizer.freeze()
            self._frozen = True
