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

from keras_aeos.callbacks.probe import FitProbe
from keras_aeos.callbacks.writers import CsvWriter, TensorBoardWriter
from keras_aeos.curvature import batches
from keras_aeos.curvature.eigenpairs import SOLVERS, check_solver, inverse_root
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.result import not_available
from keras_aeos.optimizers import dynamics


class AEoSMonitor(keras.callbacks.Callback):
    r"""Logs the preconditioned sharpness λ₁(P⁻¹H) beside the optimizer's stability threshold λ*.

    Every `update_freq` updates it measures, at the present parameters and in training mode, the
    loss that is trained, its gradient, and the most positive eigenvalues of the preconditioned and
    of the raw Hessian, and writes a row to `history`, to ``log_dir/metrics.csv`` and to TensorBoard
    events under ``log_dir/tensorboard``. Training itself is not disturbed: the trained weights are
    bit for bit those of a run without the monitor.

    ================================  =========================================================
    column                            meaning
    ================================  =========================================================
    ``step``                          number of updates made, `optimizer.iterations`
    ``epoch``                         epoch of `fit`, from 0
    ``learning_rate``                 η of the last update
    ``loss``                          training loss on the measured examples
    ``preconditioned_sharpness``      λ₁(P⁻¹H)
    ``sharpness``                     λ₁(H)
    ``stability_threshold``           λ*, where the optimizer with P frozen starts to diverge
    ``edge_ratio``                    λ₁(P⁻¹H) / λ*: 1 is the edge of stability
    ``gradient_norm_squared``         ‖∇f‖²
    ``preconditioner_norm_squared``   ‖P‖²_F, the sum of squares of the diagonal
    ``residual``                      largest ‖Av - λv‖ / \|λ\| of the row's eigenvalues
    ``num_hvps``                      Hessian-vector products spent on the row
    ``seconds``                       wall time spent on the row
    ``converged``                     whether every eigenvalue met `rtol` within `max_hvps`
    ``exact``                         whether P and λ* are those of the update to rounding
    ``preconditioned_sharpness_2`` …  next eigenvalues of P⁻¹H, if `num_eigenvalues` > 1
    ================================  =========================================================

    Where the loss or the gradient is not finite, the row says NaN and ``converged`` is false. For
    an optimizer whose update is not known, or has no P, the columns that need it are NaN. What
    makes a row not exact is said once, in a warning.

    Args:
        data: What to measure on. None: the first batches that `fit` feeds, gathered once until they
            hold `probe_size` examples (under a strategy, those of the first replica). Arrays
            ``(x, y)`` or ``(x, y, sample_weight)``, a finite `tf.data.Dataset` or a
            `keras.utils.PyDataset` of batches: all of it, one micro-batch at a time.
        update_freq: Number of updates between measurements.
        num_eigenvalues: Number of eigenvalues of P⁻¹H.
        log_dir: Directory of the logs; ``logs/aeos/<time>`` if None, set at the first row. A CSV
            file that is there already is continued or kept under another name.
        batch_size: Rows of a micro-batch if `data` are arrays; 1,024 if None.
        probe_size: Least number of examples to measure on if `data` is None. The set is closed at
            the first measurement, however many it holds by then.
        solver: ``"lanczos"`` or ``"power"``.
        rtol: Tolerance of the relative residual of each eigenvalue.
        max_hvps: Limit of the Hessian-vector products for each of λ₁(P⁻¹H) and λ₁(H).

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
        update_freq=50,
        num_eigenvalues=1,
        log_dir=None,
        batch_size=None,
        probe_size=512,
        solver="lanczos",
        rtol=1e-3,
        max_hvps=100,
    ):
        super().__init__()
        for name, value in (("update_freq", update_freq), ("probe_size", probe_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        check_solver(math.inf, num_eigenvalues, solver, rtol, max_hvps)
        if data is None and batch_size is not None:
            raise ValueError(
                "`batch_size` is for `data` given as arrays; without `data` the batches of `fit` "
                f"are measured as they come. Received: data=None and batch_size={batch_size}"
            )
        self.log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self.columns = [
            *("step", "epoch", "learning_rate", "loss", "preconditioned_sharpness", "sharpness"),
            *("stability_threshold", "edge_ratio", "gradient_norm_squared"),
            *("preconditioner_norm_squared", "residual", "num_hvps", "seconds"),
            *("converged", "exact"),
            *(f"preconditioned_sharpness_{i + 1}" for i in range(1, num_eigenvalues)),
        ]
        self._update_freq = update_freq
        self._num_eigenvalues = num_eigenvalues
        self._solver, self._rtol, self._max_hvps = solver, rtol, max_hvps
        self._batches = None if data is None else batches.from_data(data, batch_size)
        self._probe = FitProbe(probe_size)
        self._objective: Objective | None = None
        self._warm_starts = {}
        self._rows = []
        self._writers = []
        self._epoch = 0
        self._warned = set()

    @property
    def history(self):
        """The rows so far, a `pandas.DataFrame` with the columns of the class's table."""
        return pd.DataFrame(self._rows, columns=self.columns)

    def set_model(self, model):
        """Attach to a model; called by `fit` before it makes its training function."""
        super().set_model(model)
        FitProbe.detach(model)
        if self._batches is None:
            self._probe.attach(model)

    def on_train_begin(self, logs=None):
        """Count on from the optimizer's present number of updates."""
        self._most_updates = dynamics.num_updates(self.model.optimizer)
        self._next_step = self._next_multiple(self._most_updates)

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Measure if the number of updates has reached or passed a multiple of `update_freq`."""
        # Asking the optimizer for its count waits for the device, so it is asked only when due.
        self._most_updates += self.model.steps_per_execution
        if self._most_updates < self._next_step:
            return
        step = self._most_updates = dynamics.num_updates(self.model.optimizer)
        if step >= self._next_step:
            self._next_step = self._next_multiple(step)
            self._record(self._measure(step))

    def on_train_end(self, logs=None):
        """Close the logs and leave the model as it was."""
        FitProbe.detach(self.model)
        for writer in self._writers:
            writer.close()

    def _next_multiple(self, step):
        return (step // self._update_freq + 1) * self._update_freq

    def _measure(self, step):
        """One row of numbers about the state after update number `step`."""
        began = time.perf_counter()
        objective = self._current_objective()
        loss, gradient = objective.loss_and_gradient()
        gradient_norm_squared = float(tf.reduce_sum(tf.square(gradient)))
        description, diagonal = self._describe_optimizer(objective)
        threshold = description.stability_threshold() if description else math.nan
        if math.isfinite(loss) and math.isfinite(gradient_norm_squared):
            preconditioned, raw = self._solve_both(objective, diagonal, step)
        else:
            preconditioned = raw = not_available(self._num_eigenvalues, 0)
        measured = [raw] if preconditioned in (None, raw) else [preconditioned, raw]

        values = np.full(self._num_eigenvalues, np.nan)
        norm_squared = math.nan
        if diagonal is not None:
            values = preconditioned.eigenvalues
            norm_squared = sum(float(tf.reduce_sum(tf.square(part))) for part in diagonal)
        return {
            "step": step,
            "epoch": self._epoch,
            "learning_rate": (
                description.learning_rate
                if description
                else dynamics.last_learning_rate(self.model.optimizer)
            ),
            "loss": loss,
            "preconditioned_sharpness": float(values[0]),
            "sharpness": float(raw.eigenvalues[0]),
            "stability_threshold": threshold,
            "edge_ratio": float(values[0]) / threshold if threshold else math.nan,
            "gradient_norm_squared": gradient_norm_squared,
            "preconditioner_norm_squared": norm_squared,
            "residual": max(float(result.residuals.max()) for result in measured),
            "num_hvps": sum(result.num_hvps for result in measured),
            "seconds": time.perf_counter() - began,
            "converged": all(bool(result.converged.all()) for result in measured),
            "exact": description is not None and not description.approximation,
            **{
                f"preconditioned_sharpness_{i}": float(value)
                for i, value in enumerate(values[1:], 2)
            },
        }

    def _solve_both(self, objective, diagonal, step):
        """Eigenpairs of ``P^-½ H P^-½``, None if P is not known, and of H."""
        preconditioned = None
        if diagonal is not None:
            scale = inverse_root(objective, diagonal)
            preconditioned = self._solve(objective, "preconditioned", scale, step)
            if all(bool(tf.reduce_all(part == 1.0)) for part in diagonal):
                return preconditioned, preconditioned
        return preconditioned, self._solve(objective, "raw", inverse_root(objective, None), step)

    def _solve(self, objective, name, scale, step):
        """Eigenpairs of ``S H S``, warm-started from the last ones under this name."""
        result = SOLVERS[self._solver](
            lambda vector: objective.hessian_product(vector, scale),
            self._warm_starts.get(name, tf.zeros([0, objective.num_parameters], objective.dtype)),
            self._num_eigenvalues if name == "preconditioned" else 1,
            self._rtol,
            self._max_hvps,
            seed=step,
        )
        if result.eigenvectors:
            self._warm_starts[name] = tf.stack(result.eigenvectors + result.guard_vectors)
        if not result.converged.all():
            self._warn_once(
                "unconverged",
                f"At step {step} an eigenvalue did not converge to rtol={self._rtol} within "
                f"{self._max_hvps} Hessian-vector products; its row says converged=False and "
                "carries the residual that was reached. Raise `max_hvps` or `rtol` to mend this.",
            )
        return result

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
            self._objective = Objective(self.model, self._batches)
            self._warm_starts.clear()
            check_solver(
                self._objective.num_parameters,
                self._num_eigenvalues,
                self._solver,
                self._rtol,
                self._max_hvps,
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

    def _record(self, row):
        if not self._writers:
            if self.log_dir is None:
                self.log_dir = pathlib.Path(
                    "logs", "aeos", f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
                )
            self._writers = [
                CsvWriter(self.log_dir / "metrics.csv", self.columns),
                TensorBoardWriter(self.log_dir / "tensorboard"),
            ]
        self._rows.append(row)
        for writer in self._writers:
            writer.write(row)

    def _warn_once(self, key, message):
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)
