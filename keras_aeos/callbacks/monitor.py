"""The callback that watches the edge of stability while a model trains."""

import datetime
import math
import pathlib
import time
import warnings

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_aeos.callbacks import quantities as quantities_of_row
from keras_aeos.callbacks import schedule
from keras_aeos.callbacks.probe import FitProbe
from keras_aeos.callbacks.quantities import DENSITY_COLUMNS, QUANTITIES
from keras_aeos.callbacks.writers import CsvWriter, TensorBoardWriter
from keras_aeos.curvature import batches
from keras_aeos.curvature.measurement import Measurement
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.second_derivative_check import check_second_derivatives
from keras_aeos.optimizers import dynamics
from keras_aeos.solvers.by_name import check_solver
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.tracking import EigenpairTracker


class AEoSMonitor(keras.callbacks.Callback):
    r"""Logs the preconditioned sharpness λ₁(P⁻¹H) beside the optimizer's stability threshold λ*.

    After some updates it measures, at the present parameters and in training mode, the loss that is
    trained, its gradient, the most positive eigenvalues of the preconditioned Hessian, and the
    `quantities` that it is asked for, and writes a row to `history`, to ``log_dir/metrics.csv`` and
    to TensorBoard events under ``log_dir/tensorboard``. Training itself is not disturbed: the
    trained weights are bit for bit those of a run without the monitor.

    ================================  =========================================================
    column                            meaning
    ================================  =========================================================
    ``step``                          number of updates made, `optimizer.iterations`
    ``epoch``                         epoch of `fit`, from 0
    ``learning_rate``                 η of the last update
    ``loss``                          training loss on the measured examples
    ``preconditioned_sharpness``      λ₁(P⁻¹H)
    ``stability_threshold``           λ*, where the optimizer with P frozen starts to diverge
    ``edge_ratio``                    λ₁(P⁻¹H) / λ*: 1 is the edge of stability
    ``spectral_gap``                  λ₁ / λ₂ of P⁻¹H
    ``smallest_eigenvalue``           of P⁻¹H: an upper bound of it, from the same solve
    ``residual``                      largest ‖Av - λv‖ / \|λ\| of the row's eigenvalues
    ``error_bound``                   largest bound of their relative distances to eigenvalues
    ``upper_bound``                   λ₁(P⁻¹H) is at most this, with a probability of 99 %
    ``num_hvps``                      Hessian-vector products spent on the row
    ``seconds``                       wall time spent on the row
    ``overhead``                      share of all measurements in the wall time of training
    ``converged``                     whether every eigenvalue met `rtol` within `max_hvps`
    ``exact``                         whether P and λ* are those of the update to rounding
    ``preconditioned_sharpness_2`` …  next eigenvalues of P⁻¹H, if `num_eigenvalues` > 1
    ================================  =========================================================

    =====================================  ====================================================
    quantity                               columns
    =====================================  ====================================================
    ``sharpness``                          λ₁(H)
    ``gradient_norm_squared``              ‖∇f‖²
    ``preconditioner_norm_squared``        ‖P‖²_F, the sum of squares of the diagonal
    ``largest_stable_learning_rate``       η λ* / λ₁(P⁻¹H), with P as it is
    ``alignment``                          ``alignment``: Σᵢ (vᵢ·P^-½∇f)² over the measured
                                           eigenvectors of P^-½HP^-½; ``alignment_remainder``
                                           and ``semi_preconditioned_gradient_norm_squared``:
                                           ‖P^-½∇f‖² without that part, and all of it
    ``gradient_curvature``                 ∇fᵀH∇f / ‖∇f‖²
    ``update_curvature``                   uᵀHu / ‖u‖² for the last update u
    ``batch_sharpness``                    mean over the micro-batches b of g_bᵀH_b g_b / ‖g_b‖²
    ``trace``                              tr H, and its standard error ``trace_error``
    ``spectral_density``                   fractions of the eigenvalues of H in intervals, with
                                           standard errors: ``log_dir/spectral_density.csv``
    ``preconditioned_…``                   the last five in the coordinates P^½x, with
                                           P^-½HP^-½ for H, P^-½g for gradients, P^½u for u
    =====================================  ====================================================

    Where the loss or the gradient is not finite, the row says NaN and ``converged`` is false. For
    an optimizer whose update is not known, or has no P, the columns that need it are NaN. What
    makes a row not exact is said once, in a warning.

    Args:
        data: What to measure on. None: the first batches that `fit` feeds, gathered once until they
            hold `probe_size` examples (under a strategy, those of the first replica). Arrays
            ``(x, y)`` or ``(x, y, sample_weight)``, a finite `tf.data.Dataset` or a
            `keras.utils.PyDataset` of batches: all of it, one micro-batch at a time.
        update_freq: Number of updates between measurements; ``"auto"`` for as often as
            `max_overhead` allows, more often near the edge or when the ratio moves fast; or a
            collection of the numbers of updates after which to measure.
        max_overhead: Share of the wall time that measuring may take, for ``"auto"``.
        quantities: Names of the quantities to measure beside the preconditioned sharpness. None:
            ``sharpness``, ``gradient_norm_squared``, ``preconditioner_norm_squared`` and
            ``largest_stable_learning_rate``.
        num_eigenvalues: Number of eigenvalues of P⁻¹H.
        log_dir: Directory of the logs; ``logs/aeos/<time>`` if None, set at the first row. A CSV
            file that is there already is continued or kept under another name.
        batch_size: Rows of a micro-batch if `data` are arrays; 1,024 if None.
        probe_size: Least number of examples to measure on if `data` is None. The set is closed at
            the first measurement, with ``"auto"`` after eight updates, however many it holds.
        solver: ``"lanczos"`` or ``"power"``.
        rtol: Tolerance of the relative error of each eigenvalue. None: 1e-3; 1e-2 with ``"auto"``.
        max_hvps: Limit of the Hessian-vector products for each of λ₁(P⁻¹H) and λ₁(H); with
            ``"auto"`` it is 8 at most, and a solve that needs more goes on in the next row.
        check: Whether to test the second derivatives of the model's layers against differences of
            their gradients before the first measurement, by `check_second_derivatives`, which
            raises a ValueError that names the layer that fails.

    Raises:
        TypeError: If `data` can't be gone through repeatedly.
        ValueError: If an argument is out of range.

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
        data=None,
        *,
        update_freq=schedule.AUTO,
        max_overhead=0.05,
        quantities=None,
        num_eigenvalues=1,
        log_dir=None,
        batch_size=None,
        probe_size=256,
        solver="lanczos",
        rtol=None,
        max_hvps=100,
        check=False,
    ):
        super().__init__()
        if isinstance(probe_size, bool) or not isinstance(probe_size, int) or probe_size < 1:
            raise ValueError(
                f"`probe_size` must be a positive integer. Received: probe_size={probe_size!r}"
            )
        self._schedule = schedule.make(update_freq, max_overhead)
        self._quantities = list(quantities_of_row.DEFAULT if quantities is None else quantities)
        quantities_of_row.check_names(self._quantities)
        self._updates_wanted = any(QUANTITIES[name].of_update for name in self._quantities)
        self._automatic = isinstance(self._schedule, schedule.Automatic)
        rtol = (1e-2 if self._automatic else 1e-3) if rtol is None else rtol
        check_solver(math.inf, num_eigenvalues, solver, rtol, max_hvps)
        if data is None and batch_size is not None:
            raise ValueError(
                "`batch_size` is for `data` given as arrays; without `data` the batches of `fit` "
                f"are measured as they come. Received: data=None and batch_size={batch_size}"
            )
        self.log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self.columns = [
            *("step", "epoch", "learning_rate", "loss", "preconditioned_sharpness"),
            *("stability_threshold", "edge_ratio", "spectral_gap", "smallest_eigenvalue"),
            *quantities_of_row.columns(self._quantities),
            *("residual", "error_bound", "upper_bound", "num_hvps", "seconds", "overhead"),
            *("converged", "exact"),
            *(f"preconditioned_sharpness_{i + 1}" for i in range(1, num_eigenvalues)),
        ]
        self._num_eigenvalues = num_eigenvalues
        max_hvps = min(max_hvps, schedule.MAX_HVPS) if self._automatic else max_hvps
        self._solver_settings = solver, rtol, max_hvps
        self._tracker = EigenpairTracker(*self._solver_settings)
        self._check = check
        self._batches = None if data is None else batches.from_data(data, batch_size)
        self._probe = FitProbe(probe_size)
        self._objective: Objective | None = None
        self._rows = []
        self._densities = []
        self._writers = {}
        self._epoch = 0
        self._seconds_measured = self._seconds_trained = 0.0
        self._before_update = None
        self._warned = set()

    @property
    def history(self):
        """The rows so far, a `pandas.DataFrame` with the columns of the class's table."""
        return pd.DataFrame(self._rows, columns=self.columns)

    @property
    def spectral_densities(self):
        """The spectral densities so far, a `pandas.DataFrame`, a row an interval.

        The columns are ``step``, ``operator`` ("raw" or "preconditioned"), ``low`` and ``high``,
        the ends of the interval, the ``fraction`` of the eigenvalues in it and its standard
        ``error``.
        """
        return pd.DataFrame(self._densities, columns=DENSITY_COLUMNS)

    def set_model(self, model):
        """Attach to a model; called by `fit` before it makes its training function."""
        super().set_model(model)
        FitProbe.detach(model)
        if self._batches is None:
            self._probe.attach(model)

    def on_train_begin(self, logs=None):
        """Count on from the optimizer's number of updates."""
        self._began = time.perf_counter() - self._seconds_trained
        self._most_updates = dynamics.num_updates(self.model.optimizer)
        self._next_step = self._schedule.begin(self._most_updates)

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Keep the parameters before an update that is about to be measured."""
        due = self._most_updates + self.model.steps_per_execution >= self._next_step
        if due and self._updates_wanted:
            self._before_update = [tf.identity(v.value) for v in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        """Measure if the number of updates has reached or passed the next one that is due."""
        # Asking the optimizer for its count waits for the device, so it is asked only when due.
        self._most_updates += self.model.steps_per_execution
        if self._most_updates < self._next_step:
            return
        self._most_updates = dynamics.num_updates(self.model.optimizer)
        if self._most_updates >= self._next_step:
            self.measure()

    def measure(self):
        """Measure now, while `fit` runs, unless there is a row of this number of updates."""
        step = dynamics.num_updates(self.model.optimizer)
        if self._rows and self._rows[-1]["step"] == step:
            return
        began = time.perf_counter()
        row, densities = self._measure(step, began)
        self._record(row, densities)
        seconds = time.perf_counter() - began
        self._next_step = self._schedule.after(step, seconds, row["edge_ratio"])

    def on_train_end(self, logs=None):
        """Close the logs and leave the model as it was."""
        self._seconds_trained = time.perf_counter() - self._began
        FitProbe.detach(self.model)
        for writer in self._writers.values():
            writer.close()

    def _measure(self, step, began):
        """The rows of `history` and `spectral_densities` after update number `step`."""
        objective = self._current_objective()
        description, diagonal = self._describe_optimizer(objective)
        threshold = description.stability_threshold() if description else math.nan
        learning_rate = (
            description.learning_rate
            if description
            else dynamics.last_learning_rate(self.model.optimizer)
        )
        solved: list[Eigenpairs] = []
        measurement = Measurement(
            objective,
            lambda name, matvec: self._solve(objective, name, matvec, step, solved),
            None if diagonal is None else objective.pack(diagonal),
            self._last_update(objective),
            [QUANTITIES[name].per_batch for name in self._quantities],
            seed=step,
        )
        values = np.full(self._num_eigenvalues, np.nan)
        gap = smallest = upper_bound = math.nan
        if measurement.finite and measurement.preconditioned is not None:
            pairs = measurement.preconditioned.eigenpairs
            values, gap, upper_bound = pairs.eigenvalues, pairs.spectral_gap, pairs.upper_bound
            smallest = pairs.ritz_values[-1]
        quantities = quantities_of_row.measure(
            self._quantities, measurement, learning_rate, threshold
        )
        densities = quantities_of_row.densities(self._quantities, measurement, step)
        seconds = time.perf_counter() - began
        self._seconds_measured += seconds
        row = {
            "step": step,
            "epoch": self._epoch,
            "learning_rate": learning_rate,
            "loss": measurement.hessian.loss,
            "preconditioned_sharpness": float(values[0]),
            "stability_threshold": threshold,
            "edge_ratio": float(values[0]) / threshold if threshold else math.nan,
            "spectral_gap": gap,
            "smallest_eigenvalue": float(smallest),
            **quantities,
            "residual": max((float(r.residuals.max()) for r in solved), default=math.nan),
            "error_bound": max((float(r.error_bounds.max()) for r in solved), default=math.nan),
            "upper_bound": float(upper_bound),
            "num_hvps": measurement.num_hvps,
            "seconds": seconds,
            "overhead": self._seconds_measured / (time.perf_counter() - self._began),
            "converged": bool(solved) and all(bool(r.converged.all()) for r in solved),
            "exact": description is not None and not description.approximation,
            **{
                f"preconditioned_sharpness_{i}": float(value)
                for i, value in enumerate(values[1:], 2)
            },
        }
        return row, densities

    def _solve(self, objective, name, matvec, step, solved):
        """Largest eigenpairs of one of the two operators, started from the last ones."""
        result = self._tracker.solve(
            name,
            matvec,
            tf.zeros([objective.num_parameters], objective.dtype),
            self._num_eigenvalues if name == "preconditioned" else 1,
            seed=step,
        )
        solved.append(result)
        if not result.converged.all() and not self._automatic:
            _, rtol, max_hvps = self._solver_settings
            self._warn_once(
                "unconverged",
                f"At step {step} an eigenvalue did not converge to rtol={rtol} within "
                f"{max_hvps} Hessian-vector products; its row says converged=False and "
                "carries the error bound that was reached. Raise `max_hvps` or `rtol` to mend "
                "this.",
            )
        return result

    def _last_update(self, objective):
        """The last update of the parameters, a vector (n,); None if it was not seen."""
        before, self._before_update = self._before_update, None
        if before is None or len(before) != len(objective.variables):
            return None
        return objective.pack([v.value for v in objective.variables]) - objective.pack(before)

    def _current_objective(self):
        """The objective of the model's present trainable variables; traced once for them."""
        variables = self.model.trainable_variables
        current = self._objective
        if (
            current is None
            or current.model is not self.model
            or [id(v) for v in current.variables] != [id(v) for v in variables]
        ):
            if self._batches is None:
                self._probe.finish()
                self._batches = batches.from_list(self._probe.batches)
            if self._check:
                first = batches.unflatten(self._batches.spec, next(iter(self._batches)))
                check_second_derivatives(self.model, first)
            self._objective = Objective(self.model, self._batches)
            self._tracker.clear()
            check_solver(
                self._objective.num_parameters,
                self._num_eigenvalues,
                *self._solver_settings,
            )
        return self._objective

    def _describe_optimizer(self, objective):
        """The optimizer's `Dynamics` and its P for the objective's variables; None if not known."""
        optimizer = self.model.optimizer
        try:
            description = dynamics.describe(optimizer)
        except TypeError as error:
            self._warn_once("optimizer", f"Only the raw sharpness is measured. {error}")
            return None, None
        if description.approximation:
            self._warn_once("optimizer", f"An approximation: {description.approximation}")
        diagonal = dict(
            zip(
                (id(v) for v in dynamics.unwrap(optimizer)._trainable_variables),
                description.diagonals(),
                strict=True,
            )
        )
        return description, [diagonal[id(v)] for v in objective.variables]

    def _record(self, row, densities):
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
        self._rows.append(row)
        self._densities += densities
        self._writers["metrics"].write(row)
        self._writers["tensorboard"].write(row)
        for density in densities:
            self._writers["densities"].write(density)

    def _warn_once(self, key, message):
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)
