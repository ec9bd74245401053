"""The row of numbers that one measurement yields; nothing here knows of `fit`."""

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.callbacks import columns
from keras_aeos.callbacks import quantities as of_row
from keras_aeos.callbacks.quantities import QUANTITIES
from keras_aeos.curvature import batches
from keras_aeos.curvature.eigenpairs import Eigensolver, check_num_eigenvalues, resolve
from keras_aeos.curvature.measurement import Measurement
from keras_aeos.curvature.objective import Objective
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
            sharpness; None (default) for the default of `AEoSMonitor`.
        num_eigenvalues: Positive integer. Number of eigenvalues of P⁻¹H, 1 by default.
        solver: String or `Eigensolver`. ``"lanczos"`` by default.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        check: Boolean. Whether to run `check_second_derivatives` before the first measurement,
            False by default.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If an argument is out of range.

    Attributes:
        columns: Names of the row's columns, in order.
        densities: Spectral densities of the last measurement, a list of dictionaries with the
            columns of `AEoSMonitor.spectral_densities`.

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
        check: bool = False,
    ) -> None:
        constraints.check(num_eigenvalues=num_eigenvalues, check=check)
        self.model = model
        self._quantities = of_row.checked(quantities)
        self.columns = columns.columns(self._quantities, num_eigenvalues)
        self.densities: list[dict[str, Any]] = []
        self._num_eigenvalues = num_eigenvalues
        self._tracker = EigenpairTracker(*resolve(solver))
        self._batches = (
            data if isinstance(data, batches.MicroBatches) else batches.from_data(data, batch_size)
        )
        self._check = check
        self._objective: Objective | None = None
        self._began = time.perf_counter()
        self._seconds = 0.0
        self._warned: set[str] = set()

    def measure(
        self,
        *,
        before_update: Sequence[tf.Tensor] | None = None,
        epoch: int = 0,
        began: float | None = None,
    ) -> dict[str, Any]:
        """Measure at the model's present parameters.

        Args:
            before_update: List of tensors or None. Values of the trainable variables before the
                last update, for ``update_curvature``; None (default) if they are not known.
            epoch: Integer. For the column ``epoch``, 0 by default.
            began: Float or None. When training began, by `time.perf_counter`, for the column
                ``overhead``; None (default) for when the meter was made.

        Returns:
            The row, a dictionary of `columns`.
        """
        now = time.perf_counter()
        objective = self._current_objective()
        step = dynamics.num_updates(self.model.optimizer)
        description, diagonal = self._describe_optimizer(objective)
        solved: list[Eigenpairs] = []
        reading = columns.Reading(
            step=step,
            epoch=epoch,
            description=description,
            learning_rate=_learning_rate(description, self.model.optimizer),
            measurement=Measurement(
                objective,
                lambda name, matvec: self._solve(objective, name, matvec, step, solved),
                None if diagonal is None else objective.pack(diagonal),
                _update(objective, before_update),
                [QUANTITIES[name].per_batch for name in self._quantities],
                seed=step,
            ),
            solved=solved,
            began=now,
            training_began=self._began if began is None else began,
            measured_before=self._seconds,
        )
        row = {column.name: column.read(reading) for column in columns.FIRST}
        row |= of_row.measure(
            self._quantities, reading.measurement, reading.learning_rate, reading.threshold
        )
        self.densities = of_row.densities(self._quantities, reading.measurement, step)
        row |= {column.name: column.read(reading) for column in columns.LAST}
        row |= {
            name: reading.eigenvalue(index)
            for index, name in enumerate(columns.further(self._num_eigenvalues), 1)
        }
        self._seconds += row["seconds"]
        return row

    def _solve(
        self,
        objective: Objective,
        name: str,
        matvec: Matvec,
        step: int,
        solved: list[Eigenpairs],
    ) -> Eigenpairs:
        """Largest eigenpairs of one of the two operators, started from the last ones."""
        result = self._tracker.solve(
            name,
            matvec,
            tf.zeros([objective.num_parameters], objective.dtype),
            self._num_eigenvalues if name == "preconditioned" else 1,
            seed=step,
        )
        solved.append(result)
        return result

    def _current_objective(self) -> Objective:
        """The objective of the model's present trainable variables; traced once for them."""
        variables = self.model.trainable_variables
        current = self._objective
        if current is not None and [id(v) for v in current.variables] == [id(v) for v in variables]:
            return current
        if self._check:
            first = batches.unflatten(self._batches.spec, next(iter(self._batches)))
            check_second_derivatives(self.model, first)
        objective = Objective(self.model, self._batches)
        check_num_eigenvalues(self._num_eigenvalues, objective)
        self._objective = objective
        self._tracker.clear()
        return objective

    def _describe_optimizer(
        self, objective: Objective
    ) -> tuple[dynamics.Dynamics | None, list[tf.Tensor] | None]:
        """The optimizer's `Dynamics` and its P for the objective's variables; None if not known.

        P is that of the last update: before the first one there is none.
        """
        optimizer = self.model.optimizer
        try:
            description = dynamics.describe(optimizer)
        except TypeError as error:
            self._warn_once("optimizer", f"Only the raw sharpness is measured. {error}")
            return None, None
        if description.approximation:
            self._warn_once("optimizer", f"An approximation: {description.approximation}")
        if dynamics.num_updates(optimizer) == 0:
            return description, None
        diagonal = dict(
            zip(
                (id(v) for v in dynamics.unwrap(optimizer)._trainable_variables),
                description.diagonals(),
                strict=True,
            )
        )
        return description, [diagonal[id(v)] for v in objective.variables]

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)


def _update(objective: Objective, before: Sequence[tf.Tensor] | None) -> tf.Tensor | None:
    """The last update of the parameters, a vector (n,); None if it was not seen."""
    if before is None or len(before) != len(objective.variables):
        return None
    return objective.pack([v.value for v in objective.variables]) - objective.pack(before)


def _learning_rate(
    description: dynamics.Dynamics | None, optimizer: keras.optimizers.Optimizer
) -> float:
    if description is None or description.learning_rate is None:
        return dynamics.last_learning_rate(optimizer)
    return description.learning_rate
