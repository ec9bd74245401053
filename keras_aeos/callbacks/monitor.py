"""The callback that watches the edge of stability while a model trains."""

import math
import operator
import os
import pathlib
import time
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import pandas as pd

from keras_aeos import constraints
from keras_aeos.callbacks import columns, schedule
from keras_aeos.callbacks import quantities as of_row
from keras_aeos.callbacks.card import Card, describe
from keras_aeos.callbacks.guarded_meter import GuardedMeter
from keras_aeos.callbacks.latest import LatestValues
from keras_aeos.callbacks.logs import Logs
from keras_aeos.callbacks.never_raises import never_raises
from keras_aeos.callbacks.quantities import QUANTITIES
from keras_aeos.callbacks.resuming import Resumable, of_one_model
from keras_aeos.callbacks.running import put_first, running_while, weakly
from keras_aeos.callbacks.unconverged import UnconvergedRows
from keras_aeos.callbacks.watched_fit import WatchedFit
from keras_aeos.curvature import batches, replicas
from keras_aeos.curvature.eigenpairs import Eigensolver, resolve
from keras_aeos.curvature.loss import LossFunction

# Least number of examples to gather from `fit`.
_PROBE_SIZE = 256
_SEVERAL_UPDATES = (
    "What is measured of the last update is NaN: with steps_per_execution > 1 it can't be told "
    "from those before it."
)
_NOTHING_SEEN = (
    "Nothing was measured: no batch of `fit` has been seen. If this goes on, the model makes its "
    "own training function, or `trainable` has changed. Pass `data` to the monitor."
)


class AEoSMonitor(Resumable):
    r"""Logs the preconditioned sharpness λ₁(P⁻¹H) beside the optimizer's stability threshold λ*.

    After some updates it measures, at the present parameters and in training mode, the loss that is
    trained, its gradient, the most positive eigenvalues of the preconditioned Hessian, and the
    `quantities` that it is asked for. It writes a row to `history`, to ``log_dir/metrics.csv`` and
    to TensorBoard events under ``log_dir/tensorboard``. Training is not disturbed: the trained
    weights are bit for bit those of a run without the monitor.

    The last known values of `edge_ratio`, `preconditioned_sharpness`, `stability_threshold` and, if
    it is measured, `sharpness` are in Keras' `logs` after every batch and epoch, NaN before there
    is one. The progress bar and `History` show them, and the other callbacks of `fit` read them, as
    ``EarlyStopping(monitor="edge_ratio", mode="max")`` does, in any order. After a batch, those
    that come before the monitor in the list see the values without a row of this batch.

    The columns of a row, with those of the quantities before ``residual`` and, if
    `num_eigenvalues` > 1, ``preconditioned_sharpness_2`` and so on at the end:

    {columns}

    The quantities, with a column of the same name where nothing else is said:

    {quantities}

    If the loss or the gradient is not finite, the row holds NaN and ``converged`` is false. The
    columns that need P or the update are NaN for an optimizer whose update is not known or has no
    P. A warning says once why rows are not exact.

    Once training has begun, the monitor never ends it. If a measurement fails, a warning says why,
    the row holds NaN, and training goes on. Where there is no curvature, as with a layer without
    second derivatives, rows hold the loss and ``critical_learning_rate`` instead. A `fit` that ends
    before its first row is measured at its end.

    Args:
        data: The examples to measure on, all of them, one micro-batch at a time: arrays ``(x, y)``
            or ``(x, y, sample_weight)``, a finite `tf.data.Dataset` or a `keras.utils.PyDataset`
            of batches. None (default) for the first batches that `fit` feeds, gathered once until
            they hold `probe_size` examples, anew in each `fit`; under a strategy, those of all
            replicas. Class weights of `fit` are applied to `data`.
        update_freq: Positive integer, collection of positive integers, or ``"auto"`` (default).
            The number of updates between measurements; the numbers of the updates after which to
            measure; or as often as `max_overhead` allows, more often near the edge or while the
            ratio moves fast.
        max_overhead: Float between 0 and 1, or None. Share of the wall time that measuring may
            take, for ``update_freq="auto"`` only; None (default) for 0.05.
        quantities: List of strings or None. Names of the quantities to measure beside the
            preconditioned sharpness, in every row. None (default) for ``gradient_norm_squared``,
            ``preconditioner_norm_squared`` and ``largest_stable_learning_rate``, and ``sharpness``
            in the second row and every sixth after it.
        num_eigenvalues: Positive integer. Number of eigenvalues of P⁻¹H, 1 by default.
        solver: String or `Eigensolver`. The eigensolver, with its tolerance and product limit;
            ``"lanczos"`` by default.
        log_dir: Path or None. Local directory of the logs; None (default) for
            ``logs/aeos/<time>``, chosen when training begins. Logs that are there already are
            continued or kept under another name. A directory that another monitor uses gets a
            number, ``log_dir-2``.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        probe_size: Positive integer or None. Least number of examples to measure on if `data` is
            None; None (default) for 256. The set is closed at the first measurement of a `fit`,
            with ``"auto"`` after eight updates, however many it holds.
        loss: Function or None. For a model whose own `train_step` minimises another loss than that
            of `compile`: a function ``(model, batch)`` that returns it for a batch
            ``(x, y, sample_weight)``, as a scalar. None (default) for the loss of `compile`, with
            `compute_loss` if the model has its own.
        optimizer: `keras.optimizers.Optimizer` or None. For a model with several optimizers: the
            one whose variables, P and threshold are measured. None (default) for that of
            `compile`.
        check: Boolean. Whether to compare the second derivatives of the model's layers with finite
            differences of their gradients before the first measurement, by
            `check_second_derivatives`. If one fails, a warning names the layer, and nothing is
            measured. False by default.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If an argument is out of range, or has no effect beside another one; when
            training begins, if the log directory can't be made.

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
        loss: LossFunction | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        check: bool = False,
    ) -> None:
        super().__init__()
        self._arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        constraints.check(
            num_eigenvalues=num_eigenvalues,
            log_dir=log_dir,
            batch_size=batch_size,
            probe_size=probe_size,
            loss=loss,
            optimizer=optimizer,
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
        if not isinstance(update_freq, str | int) and isinstance(update_freq, Iterable):
            self._arguments["update_freq"] = update_freq = list(update_freq)
        if quantities is not None:
            self._arguments["quantities"] = quantities = list(quantities)
        self._schedule = schedule.make(update_freq, max_overhead)
        self._automatic = isinstance(self._schedule, schedule.Automatic)
        sparing = (1e-2, schedule.max_hvps(num_eigenvalues)) if self._automatic else ()
        self._solver = Eigensolver(*resolve(solver, *sparing))
        names = of_row.checked(quantities)
        self._updates_wanted = any(QUANTITIES[name].of_update for name in names)
        self._optimizer = optimizer
        measured = ("quantities", "num_eigenvalues", "loss", "optimizer", "check")
        self._options = {name: self._arguments[name] for name in measured}
        self._options["solver"] = self._solver
        self._narrow_columns = self.columns = columns.columns(names, num_eigenvalues)
        self._wide_columns = columns.columns(of_row.with_fallback(names), num_eigenvalues)
        self._logs = Logs(log_dir, self.columns)
        self._latest = LatestValues(self.columns)
        self._given = None if data is None else batches.from_data(data, batch_size)
        self._probe_size = _PROBE_SIZE if probe_size is None else probe_size
        self._seconds_trained = 0.0
        self._epoch = 0
        self._attached: tuple[Any, ...] = ()
        self._forget()

    def _forget(self) -> None:
        """Forget the model, for another one."""
        self._unconverged = UnconvergedRows(self._solver, self._automatic, self._warn_once)
        self._meter = GuardedMeter(self._options, self._unconverged, self._warn_once)
        self._fit: WatchedFit | None = None
        self._last_step: int | None = None
        self._most_updates = 0
        self._next_step: float = math.inf
        self._num_rows_before = len(self._rows)
        self._had_function = False
        self._latest.forget()
        self._began = time.perf_counter()
        self._warned: set[str] = set()
        self._unmeasured = None

    @property
    def log_dir(self) -> pathlib.Path | None:
        """The directory of the logs, a `pathlib.Path`; None until training begins by default."""
        return self._logs.directory

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; called by `fit` before it makes its training function."""
        super().set_model(model)
        self._had_function = model.train_function is not None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Claim the log directory, and attach to what the model is now."""
        model, optimizer = self.model, self._measured_optimizer()
        attached = (model, optimizer, getattr(model, "_compile_config", None))
        had_function = self._had_function
        fresh = bool(self._attached) and not all(map(operator.is_, attached[:2], self._attached))
        if len(self._attached) != 3 or not all(map(operator.is_, attached, self._attached)):
            self._forget()
        self._attached = attached
        replicas.check_strategy(model)
        if replicas.is_chief(model):
            self._logs.begin(fresh, running_while(self), weakly(self._card))
            if not replicas.has_workers(model.distribute_strategy):
                self._begin_keeping()
        self._latest.begin()
        put_first(self._latest, self)
        self._began = time.perf_counter() - self._seconds_trained
        self._num_rows_before = len(self._rows)
        self._watch(had_function)

    def _watch(self, had_function: bool) -> WatchedFit:
        """See what this `fit` feeds, trains and counts."""
        if self._fit is not None:
            self._fit.probe.detach()
        self._fit = fit = WatchedFit(
            self.model,
            self._measured_optimizer(),
            self._arguments["loss"],
            self._given,
            self._arguments["batch_size"],
            self._probe_size,
            had_function,
            self._warn_once,
        )
        return fit

    def _card(self) -> Card:
        seen = None if self._fit is None else self._fit.probe.batch_size
        # A loop without batches for the monitor to see may say how large they are.
        batch_size = (self.params or {}).get("batch_size") if seen is None else seen
        return describe(self.model, self._measured_optimizer(), batch_size, self._arguments)

    def _measured_optimizer(self) -> keras.optimizers.Optimizer | None:
        return self.model.optimizer if self._optimizer is None else self._optimizer

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch."""
        self._epoch = epoch

    @never_raises
    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Have η, and the parameters if needed, noted before an update that will be measured."""
        fit, steps = self._begun_fit(), self.model.steps_per_execution
        due = self._most_updates + steps >= self._next_step
        if due and self._updates_wanted and steps > 1:
            self._warn_once(_SEVERAL_UPDATES)
        wanted = self._updates_wanted or self._meter.wants_update
        fit.expect(due, keep=due and wanted and steps == 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure if it is due, and put the latest values into `logs`."""
        self._measure_if_due()
        self._latest.add_to(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the latest values into `logs`."""
        super().on_epoch_end(epoch, logs)
        self._latest.add_to(logs)

    @never_raises
    def _measure_if_due(self) -> None:
        """Measure if the number of updates has reached or passed the next one that is due."""
        fit = self._begun_fit()
        fit.count(self.model.steps_per_execution)
        # Asking the optimizer for its count waits for the device, so it is asked only when due.
        self._most_updates += self.model.steps_per_execution
        if self._most_updates < self._next_step:
            return
        self._most_updates = fit.num_updates()
        if self._most_updates >= self._next_step:
            self.measure()

    def _begun_fit(self) -> WatchedFit:
        """The `fit` that runs, counted from now on if it has just begun."""
        fit = self._watch(self._had_function) if self._fit is None else self._fit
        if not fit.begun:
            self._most_updates = fit.begin()
            self._resume(fit, self._most_updates)
            self._most_updates = fit.num_updates()
            self._next_step = fit.agreed(self._schedule.begin(self._most_updates))
        return fit

    def measure(self) -> None:
        """Measure now, unless there is a row of this number of updates.

        Called by `fit` when a measurement is due, and by your own callbacks or training loop. If
        it fails, a warning says why and the row holds NaN.

        Raises:
            ValueError: If the monitor is not attached to a model by `fit` or `set_model`.
        """
        self._measure(self._solver.max_hvps)

    def _measure(self, max_hvps: int | None) -> None:
        if self.model is None:
            raise ValueError(
                "The monitor has no model to measure. Pass it to `fit` in `callbacks`, or call "
                "`set_model` first; in a loop of your own, use keras_aeos.EdgeMeter. "
                "Received: model=None"
            )
        fit = self._begun_fit()
        step = fit.num_updates()
        if self._last_step == step:
            return
        if not fit.has_examples():
            self._warn_once(_NOTHING_SEEN)
            return
        began = time.perf_counter()
        self._restore_vectors(fit)
        measured, tables = self._meter.measure(
            self.model, fit, step, self._epoch, self._began, max_hvps
        )
        self._last_step = step
        self._unconverged.note(measured)
        self._latest.note(measured)
        measured = self._add(measured, tables)
        if fit.writes:
            self._logs.write(measured, tables)
        seconds = time.perf_counter() - began + self._seconds_keeping
        self._next_step = fit.agreed(self._schedule.after(step, seconds, measured["edge_ratio"]))
        self._keep_state()

    @never_raises
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Measure if there is no row yet, and close the logs."""
        self._say_what_is_missing()
        self._seconds_trained = time.perf_counter() - self._began
        if self._fit is not None:
            self._fit.probe.detach()
        if self._fit is None or self._fit.writes:
            rows = pd.DataFrame(of_one_model(self._rows), columns=self.columns)
            self._logs.finish(rows, self._seconds_trained, self._latest.first_loss)
        self._logs.close()

    def _say_what_is_missing(self) -> None:
        """Measure to the end in a training that was too short, and say so."""
        if self._fit is None or not self._fit.begun or self._meter.refused:
            return
        num_updates = self._fit.num_updates_here
        if self._last_step is None and num_updates >= 1:
            self._warn_once(
                f"Training ended after {num_updates} updates, before a measurement was due. It was "
                "measured at its end. To see more rows, choose a smaller `update_freq`."
            )
            self._measure(resolve(self._arguments["solver"])[2])  # no row will resume it
        else:
            self._unconverged.note_end(self._rows[self._num_rows_before :])

    def _stop_measuring(self, error: Exception) -> None:
        self._meter.refused, self._next_step = True, math.inf
        self._warn_once(
            f"The monitor failed and measures no more. Training goes on. {type(error).__name__}: "
            f"{error}"
        )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=2)


AEoSMonitor.__doc__ = columns.documented(AEoSMonitor.__doc__)
