"""Rows of a `fit` that goes on whatever happens to their measurement."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_aeos.callbacks import columns, quantities, row
from keras_aeos.callbacks.unconverged import UnconvergedRows
from keras_aeos.callbacks.watched_fit import WatchedFit
from keras_aeos.curvature import batches

# Measurements that may fail in a row before no other is tried.
_MOST_FAILURES = 3


class GuardedMeter:
    """Measures the rows of an `EdgeMeter`; if that fails, it warns and the row holds NaN.

    Args:
        options: Arguments of the `EdgeMeter`, beside the model and the examples.
        unconverged: What is known of rows that have not converged. If that lasts, the critical
            learning rate is measured as well.
        warn: Function of a text.

    Attributes:
        meter: The `EdgeMeter`; None before the first row.
        examples: The examples measured last.
        refused: Whether no curvature is measured any more: the model has none, or it failed too
            often. Then the critical learning rate of the update is, if the loss can be computed.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        unconverged: UnconvergedRows,
        warn: Callable[[str], None],
    ) -> None:
        self._options = options
        self._unconverged = unconverged
        self._warn = warn
        self._num_failures = 0
        self.meter: row.EdgeMeter | None = None
        self.examples: batches.MicroBatches | None = None
        self.refused = False
        self._falls_back = True

    def measure(
        self,
        model: keras.Model,
        fit: WatchedFit,
        step: int,
        epoch: int,
        began: float,
        max_hvps: int | None,
    ) -> tuple[dict[str, Any], quantities.Tables]:
        """The row of a step, and what it has in the tables beside the rows.

        Without curvature it has the columns of `quantities.FALLBACK`, too.

        Args:
            model: The model.
            fit: The `fit` that runs.
            step: Number of updates.
            epoch: Epoch of training.
            began: When training began.
            max_hvps: Limit of the products of a solve.
        """
        now = time.perf_counter()
        rate = None if fit.probe.learning_rate is None else float(fit.probe.learning_rate)
        before, fit.probe.before, fit.probe.learning_rate = fit.probe.before, None, None
        error: Exception | None = None
        if not self.refused:
            try:
                meter = self._current(model, fit)
                measured = meter.measure(
                    before_update=before,
                    epoch=epoch,
                    began=began,
                    step=step,
                    learning_rate=rate,
                    max_hvps=max_hvps,
                )
            except Warning:  # which the user wants to be an error
                raise
            except Exception as raised:
                error = raised
            else:
                self._num_failures = 0
                return measured, meter.tables
        names = quantities.checked(self._options["quantities"])
        passes = self._after(error, model, fit, before, rate)
        if passes:
            names = quantities.with_fallback(names)
        missing = columns.missing(names, self._options["num_eigenvalues"], step, epoch)
        return missing | passes | {"seconds": time.perf_counter() - now}, {}

    @property
    def wants_update(self) -> bool:
        """Whether the next row may need the last update, whatever its quantities."""
        falls_back = self._unconverged.lasting or (self.refused and self._falls_back)
        return self.meter is None or falls_back

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
        if self._unconverged.lasting:
            self.meter.measure_fallback()
        return self.meter

    def _after(
        self,
        error: Exception | None,
        model: keras.Model,
        fit: WatchedFit,
        before: list[Any] | None,
        rate: float | None,
    ) -> dict[str, float]:
        """Say why a measurement failed; what can be had without a curvature, if no other is tried.

        Returns:
            Columns of a row; empty if they can't be had either.
        """
        if error is not None:
            self._num_failures += 1
            lasting = isinstance(error, ValueError | TypeError | LookupError | NotImplementedError)
            self.refused = lasting or self._num_failures >= _MOST_FAILURES
            self._falls_back = lasting or isinstance(error, tf.errors.ResourceExhaustedError)
        passes: dict[str, float] = {}
        if self.refused and self._falls_back:
            try:
                passes = self._current(model, fit).measure_passes(before, rate)
            except Warning:
                raise
            except Exception:  # the reason is that of the measurement
                self._falls_back = False
        if error is not None:
            what_next = "the next row is tried again"
            if passes:
                what_next = (
                    f"from now on only `{quantities.FALLBACK}` is measured, by forward passes"
                )
            elif self.refused:
                what_next = "nothing more is measured"
            self._warn(
                f"A measurement failed, its row is NaN, and {what_next}. Training goes on. "
                f"{type(error).__name__}: {error}"
            )
        return passes
