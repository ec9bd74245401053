"""The row of numbers that one measurement yields; nothing here knows of `fit`."""

import functools
import math
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.callbacks import columns
from keras_aeos.callbacks import quantities as of_row
from keras_aeos.callbacks.clipping import Clipping
from keras_aeos.callbacks.quantities import OCCASIONAL, OCCASIONAL_FREQ, QUANTITIES
from keras_aeos.curvature import batches
from keras_aeos.curvature.critical_learning_rate import CriticalLearningRates
from keras_aeos.curvature.eigenpairs import Eigensolver, check_num_eigenvalues, resolve
from keras_aeos.curvature.loss import LossFunction
from keras_aeos.curvature.measurement import Measurement
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.precision import full_precision
from keras_aeos.curvature.second_derivative_check import check_second_derivatives
from keras_aeos.optimizers import dynamics
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.tracking import EigenpairTracker
from keras_aeos.solvers.vectors import Matvec


class EdgeMeter:
    """Measures the row that `AEoSMonitor` logs, in a training loop of your own.

    Call `measure` after an update; before the first one P is not defined, and the columns that need
    it are NaN. The model, the optimizer and the random generators are left untouched. A solve
    starts from the eigenvectors of the last row, so keep one meter for the whole training.

    Args:
        model: A built Keras model, compiled with the loss and the optimizer that train it.
        data: The examples to measure on, as for `keras_aeos.top_eigenpairs`.
        quantities: List of strings or None. The quantities to measure beside the preconditioned
            sharpness; None (default) for those of `AEoSMonitor`, ``sharpness`` in the second row
            and every sixth after it.
        num_eigenvalues: Positive integer. Number of eigenvalues of P⁻¹H, 1 by default.
        solver: String or `Eigensolver`. ``"lanczos"`` by default.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        loss: Function or None. The loss that is trained, as for `AEoSMonitor`; None (default) for
            that of `compile`.
        optimizer: `keras.optimizers.Optimizer` or None. The optimizer whose variables and updates
            are measured; None (default) for the model's.
        check: Boolean. Whether to run `check_second_derivatives` before the first measurement,
            False by default.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If an argument is out of range.

    Attributes:
        densities: Spectral densities of the last measurement, a list of dictionaries with the
            columns of `AEoSMonitor.spectral_densities`.
        layers: Its layers, a list of dictionaries with the columns of `AEoSMonitor.layers`.

    Example:
        ```python
        meter = keras_aeos.EdgeMeter(model, (x, y))
        for step, (inputs, targets) in enumerate(batches, 1):
            train_step(inputs, targets)  # applies model.optimizer
            if step % 100 == 0:
                row = meter.measure()
                print(row["step"], row["edge_ratio"])
        ```

    References:
        Cohen et al. 2022, Sections 2 and 3.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        *,
        quantities: Iterable[str] | None = None,
        num_eigenvalues: int = 1,
        solver: str | Eigensolver = "lanczos",
        batch_size: int | None = None,
        loss: LossFunction | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        check: bool = False,
    ) -> None:
        constraints.check(
            num_eigenvalues=num_eigenvalues, check=check, loss=loss, optimizer=optimizer
        )
        self.model = model
        # What the monitor knows of a `fit`: the variables that it updates, if they are not the
        # model's trainable ones, and why the measured loss is not the one that is trained.
        self.variables: list[keras.Variable] | None = None
        self.approximation = ""
        self._loss_function = loss
        self._optimizer = optimizer
        self._quantities = of_row.checked(quantities)
        self._sparing = quantities is None
        self._num_rows = 0
        self.densities: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self._num_eigenvalues = num_eigenvalues
        method, rtol, self._max_hvps = resolve(solver)
        self._tracker = EigenpairTracker(method, rtol, self._max_hvps)
        self._batches = (
            data if isinstance(data, batches.MicroBatches) else batches.from_data(data, batch_size)
        )
        self._check = check
        self._objective: Objective | None = None
        self._began = time.perf_counter()
        self._seconds = 0.0
        self._warned: set[str] = set()
        self._economical = False
        self.critical = CriticalLearningRates()

    @property
    def columns(self) -> list[str]:
        """Names of the row's columns, in order."""
        return columns.columns(self._quantities, self._num_eigenvalues)

    @property
    def tables(self) -> of_row.Tables:
        """What the last row has in the tables beside the rows."""
        return {"spectral_density": self.densities, "layers": self.layers}

    @property
    def optimizer(self) -> keras.optimizers.Optimizer | None:
        """The optimizer whose updates are measured."""
        return self.model.optimizer if self._optimizer is None else self._optimizer

    def measure_on(self, examples: batches.MicroBatches) -> None:
        """Measure on other examples from now on; nothing is traced again if they are alike."""
        if self._objective is not None and examples.spec == self._batches.spec:
            self._objective.batches = examples
        else:
            self._objective = None
        self._batches = examples

    def measure(
        self,
        *,
        before_update: Sequence[tf.Tensor] | None = None,
        epoch: int = 0,
        began: float | None = None,
        step: int | None = None,
        learning_rate: float | None = None,
        max_hvps: int | None = None,
    ) -> dict[str, Any]:
        """Measure at the model's present parameters.

        Args:
            before_update: List of tensors or None. Values of the trainable variables before the
                last update, for ``update_curvature``; None (default) if they are not known.
            epoch: Integer. For the column ``epoch``, 0 by default.
            began: Float or None. When training began, by `time.perf_counter`, for the column
                ``overhead``; None (default) for when the meter was made.
            step: Integer or None. For the column ``step``; None (default) for the optimizer's
                number of updates.
            learning_rate: Float or None. η of the last update; None (default) if the optimizer's
                learning rate has not been changed since, other than by its schedule.
            max_hvps: Integer or None. Limit of the Hessian-vector products of one solve; None
                (default) for that of the solver.

        Returns:
            The row, a dictionary of `columns`.

        If memory runs out, it is measured again without kept values, then in smaller micro-batches.
        """
        self._tracker.max_hvps = self._max_hvps if max_hvps is None else max_hvps
        while True:
            try:
                with full_precision():
                    return self._measure(before_update, epoch, began, step, learning_rate)
            except tf.errors.ResourceExhaustedError:
                if not self._take_less_memory():
                    raise

    def _measure(
        self,
        before_update: Sequence[tf.Tensor] | None,
        epoch: int,
        began: float | None,
        step: int | None,
        learning_rate: float | None,
    ) -> dict[str, Any]:
        now = time.perf_counter()
        objective = self._current_objective()
        if step is None:
            step = dynamics.num_updates(self.optimizer)
        description, diagonal = self._describe_optimizer(objective, learning_rate)
        rate = self._learning_rate(description, learning_rate)
        critical = None
        if before_update and any(QUANTITIES[name].of_passes for name in self._quantities):
            critical = self.critical.measure(objective, before_update, rate)
        solved: list[Eigenpairs] = []
        reading = columns.Reading(
            step=step,
            epoch=epoch,
            description=description,
            learning_rate=rate,
            measurement=Measurement(
                objective,
                functools.partial(self._solve, objective, step, solved),
                None if diagonal is None else objective.pack(diagonal),
                _update(objective, before_update),
                [QUANTITIES[name].per_batch for name in self._quantities],
                seed=step,
                clipping=self._clipping(objective, description),
                critical=critical,
            ),
            solved=solved,
            began=now,
            training_began=self._began if began is None else began,
            measured_before=self._seconds,
            exact=not self.approximation
            and description is not None
            and not description.approximation,
        )
        row = {column.name: column.read(reading) for column in columns.FIRST}
        row |= dict.fromkeys(of_row.columns(self._quantities), math.nan)
        row |= of_row.measure(
            self._quantities_now(reading.measurement),
            reading.measurement,
            reading.learning_rate,
            reading.threshold,
            reading.mean_square_threshold,
        )
        self.densities = of_row.densities(self._quantities, reading.measurement, step)
        self.layers = of_row.layers(self._quantities, reading.measurement, step)
        row |= {column.name: column.read(reading) for column in columns.LAST}
        row |= {
            name: reading.eigenvalue(index)
            for index, name in enumerate(columns.further(self._num_eigenvalues), 1)
        }
        self._seconds += row["seconds"]
        self._num_rows += 1
        return row

    def measure_passes(
        self, before_update: Sequence[tf.Tensor] | None, learning_rate: float | None
    ) -> dict[str, float]:
        """What forward passes alone can say: the columns of ``critical_learning_rate``, and two.

        Args:
            before_update: As for `measure`.
            learning_rate: As for `measure`.

        Returns:
            A dictionary with ``learning_rate`` and ``loss`` too.
        """
        self._check = False  # what it refuses is not needed
        objective = self._current_objective()
        description, _ = self._describe_optimizer(objective, learning_rate)
        rate = self._learning_rate(description, learning_rate)
        with full_precision():
            present = [tf.convert_to_tensor(v.value) for v in objective.variables]
            loss = objective.first_order.loss_along(objective.batches, present, present)(0.0)
            found = self.critical.measure(objective, before_update or (), rate)
        names = QUANTITIES["critical_learning_rate"].columns
        values = dict(zip(names, of_row.critical_numbers(found), strict=True))
        return {"learning_rate": rate, "loss": loss} | values

    def measure_fallback(self) -> None:
        """Measure from now on what is measured where there is no curvature, too."""
        self._quantities = of_row.with_fallback(self._quantities)

    def _quantities_now(self, measurement: Measurement) -> list[str]:
        """The quantities of this row: by default, seldom those that take a solve of their own."""
        one_solve = measurement.preconditioned in (None, measurement.raw)
        if not self._sparing or one_solve or self._num_rows % OCCASIONAL_FREQ == 1:
            return self._quantities
        return [name for name in self._quantities if name not in OCCASIONAL]

    def _solve(
        self,
        objective: Objective,
        step: int,
        solved: list[Eigenpairs],
        name: str,
        matvec: Matvec,
        size: int | None = None,
    ) -> Eigenpairs:
        """Largest eigenpairs of one of the operators, started from the last ones."""
        result = self._tracker.solve(
            name,
            matvec,
            tf.zeros([objective.num_parameters if size is None else size], objective.dtype),
            self._num_eigenvalues if name == "preconditioned" else 1,
            seed=step,
            follow=name != "raw" or not self._sparing,  # few rows have it: H moves far between
        )
        solved.append(result)
        return result

    def _current_objective(self) -> Objective:
        """The objective of the variables that are trained now; traced once for them."""
        variables = self._trained_variables()
        current = self._objective
        if current is not None and [id(v) for v in current.variables] == [id(v) for v in variables]:
            return current
        if self._check:
            first = batches.unflatten(self._batches.spec, next(iter(self._batches)))
            check_second_derivatives(self.model, first)
        objective = Objective(self.model, self._batches, self._loss_function, variables)
        if self._economical:
            objective.kept_bytes = 0
        check_num_eigenvalues(self._num_eigenvalues, objective)
        self._objective = objective
        self._tracker.clear()
        return objective

    def _trained_variables(self) -> list[keras.Variable]:
        if self.variables is not None:
            return self.variables
        if self._optimizer is not None:
            return list(dynamics.unwrap(self._optimizer)._trainable_variables)
        return self.model.trainable_variables

    def _take_less_memory(self) -> bool:
        """Make a measurement that ran out of memory smaller; False if it can't be."""
        released = self._batches if self._objective is None else self._objective.batches
        released.release()
        if not self._economical:
            self._economical = True
            if self._objective is not None:
                self._objective.kept_bytes = 0
            self._warn_once("memory", "Memory ran out: measured without kept values from now on.")
            return True
        largest = max(int(tf.shape(tensors[0])[0]) for tensors in self._batches)
        pieces = batches.smaller(self._batches, (largest + 1) // 2) if largest > 1 else None
        if pieces is None:
            return False
        self._warn_once(
            "pieces",
            f"Memory ran out: measured in micro-batches of {(largest + 1) // 2} rows or fewer from "
            "now on, which BatchNormalization and losses that are no means over examples notice. "
            "To choose them, pass `data` and `batch_size`.",
        )
        self._batches, self._objective = pieces, None
        return True

    def _describe_optimizer(
        self, objective: Objective, learning_rate: float | None
    ) -> tuple[dynamics.Dynamics | None, list[tf.Tensor] | None]:
        """The optimizer's `Dynamics` and its P for the objective's variables; None if not known.

        P is that of the last update: before the first one there is none.
        """
        optimizer = self.optimizer
        try:
            description = dynamics.describe(optimizer, learning_rate)
        except TypeError as error:
            self._warn_once("optimizer", f"Only the raw sharpness is measured. {error}")
            return None, None
        if description.approximation:
            self._warn_once("optimizer", f"An approximation: {description.approximation}")
        if dynamics.num_updates(optimizer) == 0:
            return description, None
        known = map(id, dynamics.unwrap(optimizer)._trainable_variables)
        diagonal = dict(zip(known, description.diagonals(), strict=True))
        if not all(id(v) in diagonal for v in objective.variables):
            self._warn_once(
                "variables",
                "Only the raw sharpness is measured: the optimizer does not know all of the "
                "model's trainable variables. Compile the model again after a change of "
                "`trainable`.",
            )
            return description, None
        return description, [diagonal[id(v)] for v in objective.variables]

    def _clipping(
        self, objective: Objective, description: dynamics.Dynamics | None
    ) -> Clipping | None:
        """What the clipping of a known optimizer does, if that is asked for."""
        asked = any(QUANTITIES[name].of_clipping for name in self._quantities)
        return Clipping(objective, self.optimizer) if asked and description is not None else None

    def _learning_rate(self, description: dynamics.Dynamics | None, given: float | None) -> float:
        if description is not None and description.learning_rate is not None:
            return description.learning_rate
        if given is not None or self.optimizer is None:
            return math.nan if given is None else given
        return dynamics.last_learning_rate(self.optimizer)

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)


def _update(objective: Objective, before: Sequence[tf.Tensor] | None) -> tf.Tensor | None:
    """The last update of the parameters, a vector (n,); None if it was not seen."""
    if before is None or len(before) != len(objective.variables):
        return None
    return objective.pack([v.value for v in objective.variables]) - objective.pack(before)
