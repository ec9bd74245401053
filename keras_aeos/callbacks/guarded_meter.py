"""Rows of a `fit` that goes on whatever happens to their measurement."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_aeos.callbacks import columns, quantities, row
from keras_aeos.callbacks.watched_fit import WatchedFit
from keras_aeos.curvature import batches

# Measurements that may fail in a row before no other is tried.
_MOST_FAILURES = 3


class GuardedMeter:
    """Measures the rows of an `EdgeMeter`; if that fails, it warns and the row holds NaN.

    Args:
        options: Arguments of the `EdgeMeter`, beside the model and the examples.
        warn: Function of a text.

    Attributes:
        meter: The `EdgeMeter`; None before the first row.
        examples: The examples measured last.
        refused: Whether nothing more is measured: the model can't be, or it failed too often.
    """

    def __init__(self, options: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self._options = options
        self._warn = warn
        self._num_failures = 0
        self.meter: row.EdgeMeter | None = None
        self.examples: batches.MicroBatches | None = None
        self.refused = False

    def measure(
        self,
        model: keras.Model,
        fit: WatchedFit,
        step: int,
        epoch: int,
        began: float,
        max_hvps: int | None,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The row of a step, and its spectral densities.

        Args:
            model: The model.
            fit: The `fit` that runs.
            step: Number of updates.
            epoch: Epoch of training.
            began: When training began.
            max_hvps: Limit of the products of a solve.
        """
        now = time.perf_counter()
        if not self.refused:
            try:
                meter, rate = self._current(model, fit), fit.probe.learning_rate
                measured = meter.measure(
                    before_update=fit.probe.before,
                    epoch=epoch,
                    began=began,
                    step=step,
                    learning_rate=None if rate is None else float(rate),
                    max_hvps=max_hvps,
                )
            except Warning:  # which the user wants to be an error
                raise
            except Exception as error:
                self._note(error)
            else:
                self._num_failures = 0
                return measured, meter.densities
            finally:
                fit.probe.before = fit.probe.learning_rate = None
        names = quantities.checked(self._options["quantities"])
        missing = columns.missing(names, self._options["num_eigenvalues"], step, epoch)
        return missing | {"seconds": time.perf_counter() - now}, []

    def _current(self, model: keras.Model, fit: WatchedFit) -> row.EdgeMeter:
        """The meter, with the examples of this `fit`."""
        examples = fit.examples()
        if self.meter is None:
            self.meter = row.EdgeMeter(model, examples, **self._options)
        elif examples is not self.examples:
            self.meter.measure_on(examples)
        self.examples = examples
        self.meter.variables = fit.variables
        self.meter.approximation = fit.approximation
        return self.meter

    def _note(self, error: Exception) -> None:
        """Say why a measurement failed, and whether another one will be tried."""
        self._num_failures += 1
        lasting = isinstance(error, ValueError | TypeError | LookupError | NotImplementedError)
        self.refused = lasting or self._num_failures >= _MOST_FAILURES
        what_next = "nothing more is measured" if self.refused else "the next row is tried again"
        self._warn(
            f"A measurement failed, its row is NaN, and {what_next}. Training goes on. "
            f"{type(error).__name__}: {error}"
        )
