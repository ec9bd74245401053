"""The callback that watches the edge of stability while a model trains."""

import datetime
import math
import os
import pathlib
import time
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.callbacks import columns, row, schedule
from keras_aeos.callbacks import quantities as of_row
from keras_aeos.callbacks.probe import FitProbe
from keras_aeos.callbacks.quantities import DENSITY_COLUMNS, QUANTITIES
from keras_aeos.callbacks.writers import CsvWriter, TensorBoardWriter
from keras_aeos.curvature import batches
from keras_aeos.curvature.eigenpairs import Eigensolver, resolve
from keras_aeos.optimizers import dynamics

# Least number of examples to gather from `fit`.
_PROBE_SIZE = 256


class AEoSMonitor(keras.callbacks.Callback):
    r"""Logs the preconditioned sharpness λ₁(P⁻¹H) beside the optimizer's stability threshold λ*.

    After some updates it measures, at the present parameters and in training mode, the loss that is
    trained, its gradient, the most positive eigenvalues of the preconditioned Hessian, and the
    `quantities` that it is asked for. It writes a row to `history`, to ``log_dir/metrics.csv`` and
    to TensorBoard events under ``log_dir/tensorboard``. Training is not disturbed: the trained
    weights are bit for bit those of a run without the monitor.

    The columns of a row, with those of the quantities before ``residual`` and, if
    `num_eigenvalues` > 1, ``preconditioned_sharpness_2`` and so on at the end:

    {columns}

    The quantities, with a column of the same name where nothing else is said:

    {quantities}

    If the loss or the gradient is not finite, the row holds NaN and ``converged`` is false. The
    columns that need P or the update are NaN for an optimizer whose update is not known or has no
    P. A warning says once why rows are not exact.

    Args:
        data: The examples to measure on, all of them, one micro-batch at a time: arrays ``(x, y)``
            or ``(x, y, sample_weight)``, a finite `tf.data.Dataset` or a `keras.utils.PyDataset`
            of batches. None (default) for the first batches that `fit` feeds, gathered once until
            they hold `probe_size` examples; under a strategy, those of the first replica.
        update_freq: Positive integer, collection of positive integers, or ``"auto"`` (default).
            The number of updates between measurements; the numbers of the updates after which to
            measure; or as often as `max_overhead` allows, more often near the edge or while the
            ratio moves fast.
        max_overhead: Float between 0 and 1, or None. Share of the wall time that measuring may
            take, for ``update_freq="auto"`` only; None (default) for 0.05.
        quantities: List of strings or None. Names of the quantities to measure beside the
            preconditioned sharpness. None (default) for ``sharpness``, ``gradient_norm_squared``,
            ``preconditioner_norm_squared`` and ``largest_stable_learning_rate``.
        num_eigenvalues: Positive integer. Number of eigenvalues of P⁻¹H, 1 by default.
        solver: String or `Eigensolver`. The eigensolver, with its tolerance and product limit;
            ``"lanczos"`` by default.
        log_dir: Path or None. Directory of the logs; None (default) for ``logs/aeos/<time>``, set
            at the first row. A CSV file that is there already is continued or kept under another
            name.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        probe_size: Positive integer or None. Least number of examples to measure on if `data` is
            None; None (default) for 256. The set is closed at the first measurement, with
            ``"auto"`` after eight updates, however many it holds.
        check: Boolean. Whether to compare the second derivatives of the model's layers with finite
            differences of their gradients before the first measurement, by
            `check_second_derivatives`, which raises a ValueError that names the layer that fails.
            False by default.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If an argument is out of range, or has no effect beside another one.

    Example:
        ```python
        monitor = keras_aeos.AEoSMonitor(update_freq=20)
        model.fit(x, y, epochs=10, callbacks=[monitor])
        monitor.history.plot("step", ["preconditioned_sharpness", "stability_threshold"])
        ```

    References:
        Cohen et al. 2022, Sections 2 and 3.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        update_freq: int | str | Iterable[int] = constraints.AUTO,
        max_overhead: float | None = None,
        quantities: Iterable[str] | None = None,
        num_eigenvalues: int = 1,
        solver: str | Eigensolver = "lanczos",
        log_dir: str | os.PathLike | None = None,
        batch_size: int | None = None,
        probe_size: int | None = None,
        check: bool = False,
    ) -> None:
        super().__init__()
        constraints.check(
            num_eigenvalues=num_eigenvalues,
            log_dir=log_dir,
            batch_size=batch_size,
            probe_size=probe_size,
            check=check,
        )
        if data is None and batch_size is not None:
            raise ValueError(
                "`batch_size` is for `data` given as arrays; without `data` the batches of `fit` "
                f"are measured as they come. Received: data=None and batch_size={batch_size}"
            )
        if data is not None and probe_size is not None:
            raise ValueError(
                "`probe_size` is for a monitor without `data`, which gathers its examples from "
                f"`fit`; with `data` all of it is measured. Received: probe_size={probe_size}"
            )
        self._schedule = schedule.make(update_freq, max_overhead)
        self._automatic = isinstance(self._schedule, schedule.Automatic)
        method, rtol, max_hvps = (
            resolve(solver, rtol=1e-2, max_hvps=schedule.max_hvps(num_eigenvalues))
            if self._automatic
            else resolve(solver)
        )
        self._solver = Eigensolver(method, rtol, max_hvps)
        self._quantities = of_row.checked(quantities)
        self._updates_wanted = any(QUANTITIES[name].of_update for name in self._quantities)
        self._num_eigenvalues = num_eigenvalues
        self._check = check
        self.columns = columns.columns(self._quantities, num_eigenvalues)
        self.log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self._batches = None if data is None else batches.from_data(data, batch_size)
        self._probe = FitProbe(_PROBE_SIZE if probe_size is None else probe_size)
        self._meter: row.EdgeMeter | None = None
        self._rows: list[dict[str, Any]] = []
        self._densities: list[dict[str, Any]] = []
        self._writers: dict[str, CsvWriter | TensorBoardWriter] = {}
        self._epoch = 0
        self._seconds_trained = 0.0
        self._before_update: list[tf.Tensor] | None = None
        self._warned_unconverged = False

    @property
    def history(self) -> pd.DataFrame:
        """The rows so far, a `pandas.DataFrame` with the columns of the class's table."""
        return pd.DataFrame(self._rows, columns=self.columns)

    @property
    def spectral_densities(self) -> pd.DataFrame:
        """The spectral densities so far, a `pandas.DataFrame`, one row per interval.

        The columns are ``step``, ``operator`` ("raw" or "preconditioned"), ``low`` and ``high``,
        the ends of the interval, the ``fraction`` of the eigenvalues in it and its standard
        ``error``.
        """
        return pd.DataFrame(self._densities, columns=DENSITY_COLUMNS)

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; called by `fit` before it makes its training function."""
        super().set_model(model)
        FitProbe.detach(model)
        if self._batches is None:
            self._probe.attach(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Continue from the optimizer's number of updates."""
        self._began = time.perf_counter() - self._seconds_trained
        self._most_updates = dynamics.num_updates(self.model.optimizer)
        self._next_step = self._schedule.begin(self._most_updates)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the parameters before an update that is about to be measured."""
        due = self._most_updates + self.model.steps_per_execution >= self._next_step
        if due and self._updates_wanted:
            self._before_update = [tf.identity(v.value) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure if the number of updates has reached or passed the next one that is due."""
        # Asking the optimizer for its count waits for the device, so it is asked only when due.
        self._most_updates += self.model.steps_per_execution
        if self._most_updates < self._next_step:
            return
        self._most_updates = dynamics.num_updates(self.model.optimizer)
        if self._most_updates >= self._next_step:
            self.measure()

    def measure(self) -> None:
        """Measure now, while `fit` runs, unless there is a row of this number of updates."""
        step = dynamics.num_updates(self.model.optimizer)
        if self._rows and self._rows[-1]["step"] == step:
            return
        began = time.perf_counter()
        before, self._before_update = self._before_update, None
        meter = self._current_meter()
        measured = meter.measure(before_update=before, epoch=self._epoch, began=self._began)
        self._warn_if_unconverged(measured)
        self._record(measured, meter.densities)
        seconds = time.perf_counter() - began
        self._next_step = self._schedule.after(step, seconds, measured["edge_ratio"])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the logs and leave the model as it was."""
        self._seconds_trained = time.perf_counter() - self._began
        FitProbe.detach(self.model)
        for writer in self._writers.values():
            writer.close()

    def _current_meter(self) -> row.EdgeMeter:
        """The meter of the present model."""
        if self._meter is None or self._meter.model is not self.model:
            if self._batches is None:
                self._probe.finish()
                self._batches = batches.from_list(self._probe.batches)
            self._meter = row.EdgeMeter(
                self.model,
                self._batches,
                quantities=self._quantities,
                num_eigenvalues=self._num_eigenvalues,
                solver=self._solver,
                check=self._check,
            )
        return self._meter

    def _record(self, measured: dict[str, Any], densities: list[dict[str, Any]]) -> None:
        if not self._writers:
            if self.log_dir is None:
                self.log_dir = pathlib.Path(
                    "logs", "aeos", f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
                )
            self._writers = {
                "metrics": CsvWriter(self.log_dir / "metrics.csv", self.columns),
                "densities": CsvWriter(self.log_dir / "spectral_density.csv", DENSITY_COLUMNS),
                "tensorboard": TensorBoardWriter(self.log_dir / "tensorboard"),
            }
        self._rows.append(measured)
        self._densities += densities
        self._writers["metrics"].write(measured)
        self._writers["tensorboard"].write(measured)
        for density in densities:
            self._writers["densities"].write(density)

    def _warn_if_unconverged(self, measured: dict[str, Any]) -> None:
        """Say once that a solve ended at its limit, where the next row does not resume it."""
        missed = not measured["converged"] and math.isfinite(measured["residual"])
        if missed and not self._automatic and not self._warned_unconverged:
            self._warned_unconverged = True
            warnings.warn(
                f"At step {measured['step']} an eigenvalue did not converge to "
                f"rtol={self._solver.rtol} within {self._solver.max_hvps} Hessian-vector products. "
                "Its row says converged=False and carries the error bound that was reached. To fix "
                "this, raise `max_hvps` or `rtol` of the solver.",
                stacklevel=2,
            )


AEoSMonitor.__doc__ = columns.documented(AEoSMonitor.__doc__)
