"""The largest eigenpairs of a model's (preconditioned) Hessian."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.curvature.batches import MicroBatches, from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.precision import full_precision
from keras_aeos.solvers.by_name import SOLVERS
from keras_aeos.solvers.result import Eigenpairs

# Name of the attribute that keeps a model's objective.
_OBJECTIVE = "_keras_aeos_objective"


@dataclasses.dataclass(frozen=True)
class Eigensolver:
    """An eigensolver and when it ends. Where a solver is expected, its name stands for defaults.

    Args:
        method: String. ``"lanczos"`` (default), thick-restart Lanczos with an upper bound on what
            it may have missed; or ``"power"``, block power iteration.
        rtol: Float between 0 and 1, or None. Tolerance of the relative error of each eigenvalue,
            measured by the bound of its distance to the nearest eigenvalue. Lanczos also has to
            exclude, with a probability of 99%, an eigenvalue that exceeds λ₁ by more than
            ``30 rtol``. None (default) for 1e-3; for 1e-2 in an `AEoSMonitor` that chooses its
            own steps. From 1e-2 on, two of three solves of a monitor for λ₁ alone follow the
            last eigenvector: they start from it, end at a bound of ``2 rtol`` and exclude nothing.
        max_hvps: Positive integer or None. Limit of the Hessian-vector products of one solve. None
            (default) for 100; for 8 `num_eigenvalues` in an `AEoSMonitor` that chooses its own
            steps, where the next measurement resumes a solve that needs more.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> Eigensolver(rtol=1e-5)
        Eigensolver(method='lanczos', rtol=1e-05, max_hvps=None)
    """

    method: str = "lanczos"
    rtol: float | None = None
    max_hvps: int | None = None

    def __post_init__(self) -> None:
        constraints.check(method=self.method, rtol=self.rtol, max_hvps=self.max_hvps)


def resolve(
    solver: str | Eigensolver, rtol: float = 1e-3, max_hvps: int = 100
) -> tuple[str, float, int]:
    """Method, tolerance and product limit of a `solver` argument, None replaced by defaults.

    Raises:
        ValueError: If `solver` is neither the name of a method nor an `Eigensolver`.
    """
    if not isinstance(solver, Eigensolver):
        constraints.check(solver=solver)
        solver = Eigensolver(solver)
    return (
        solver.method,
        rtol if solver.rtol is None else solver.rtol,
        max_hvps if solver.max_hvps is None else solver.max_hvps,
    )


def top_eigenpairs(
    model: keras.Model,
    data: Any,
    *,
    num_eigenvalues: int = 1,
    preconditioner: Sequence[tf.Tensor] | None = None,
    solver: str | Eigensolver = "lanczos",
    batch_size: int | None = None,
    seed: int = 0,
    variables: Sequence[keras.Variable] | None = None,
) -> Eigenpairs:
    """Largest (most positive) eigenpairs of the Hessian H of the training loss, or of ``P⁻¹H``.

    With a preconditioner P the pairs satisfy ``H u = λ P u``. They are computed as those of the
    symmetric ``A = P^-½ H P^-½``, with unit eigenvectors v and ``u = P^-½ v``.

    Args:
        model: A built and compiled Keras model; the loss is that of `compile`, in training mode.
        data: The examples to measure on, all of them: arrays ``(x, y)`` or
            ``(x, y, sample_weight)``, a finite `tf.data.Dataset` or a `keras.utils.PyDataset` of
            batches.
        num_eigenvalues: Positive integer. Number k of eigenpairs, 1 by default.
        preconditioner: List of positive tensors or None. Diagonal of P, as
            `keras_aeos.preconditioner` returns it: one tensor per trainable variable, of its shape.
            None (default) for ``P = I``.
        solver: String or `Eigensolver`. The solver, with its tolerance and product limit;
            ``"lanczos"`` by default.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        seed: Integer. Seed of the solver's random start, 0 by default.
        variables: List of trainable variables of the model, or None. Those of one layer give the
            eigenpairs of its diagonal block of H, with all others fixed, and `preconditioner` has
            a tensor for each of them. None (default) for all.

    Returns:
        An `Eigenpairs`: `eigenvalues` (k,), descending; `eigenvectors`, a list of k lists of
        tensors u of the shapes of `variables`, with ``uᵀ P u = 1``; `residuals`,
        `error_bounds` and `converged` (k,); `upper_bound` of λ₁; `num_hvps`; `ritz_values`.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If the model is not built or compiled, or if an argument is out of range.

    Example:
        The loss ``(x² - 0)`` of a single weight on the input 3 has the second derivative 18.

        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> result = top_eigenpairs(model, (np.full((4, 1), 3.0), np.zeros((4, 1))))
        >>> round(float(result.eigenvalues[0]), 4)
        18.0

    References:
        Cohen et al. 2022, Section 2 (preconditioned sharpness).
    """
    constraints.check(num_eigenvalues=num_eigenvalues, seed=seed)
    if variables is not None:
        _check_variables(model, variables)
    method, rtol, max_hvps = resolve(solver)
    objective = objective_of(model, from_data(data, batch_size), variables)
    check_num_eigenvalues(num_eigenvalues, objective)
    scale = inverse_root(objective, preconditioner)
    with full_precision():
        result = SOLVERS[method](
            objective.linearise().operator(scale),
            tf.zeros([0, objective.num_parameters], objective.dtype),
            num_eigenvalues,
            rtol,
            max_hvps,
            seed=seed,
        )
    objective.batches.release()  # the model holds the objective
    return dataclasses.replace(
        result, eigenvectors=[objective.unpack(scale * v) for v in result.eigenvectors]
    )


def objective_of(
    model: keras.Model,
    batches: MicroBatches,
    variables: Sequence[keras.Variable] | None = None,
) -> Objective:
    """The model's objective, traced once as long as its loss and these variables stay.

    It is kept on the model, past Keras's tracking of attributes, and lives as long as it.
    """
    key = (
        getattr(model, "_compile_config", None),
        model.dtype_policy,
        [(id(layer), layer.trainable) for layer in model._flatten_layers()],
        [id(v) for v in (model.trainable_variables if variables is None else variables)],
        batches.spec,
    )
    known = model.__dict__.get(_OBJECTIVE)
    if known is not None and known[0][0] is key[0] and known[0][1:] == key[1:]:
        objective = known[1]
        objective.batches = batches
        return objective
    objective = Objective(model, batches, variables=variables)
    object.__setattr__(model, _OBJECTIVE, (key, objective))
    return objective


def _check_variables(model: keras.Model, variables: Sequence[keras.Variable]) -> None:
    trainable = {id(v) for v in model.trainable_variables}
    others = [v for v in variables if id(v) not in trainable]
    if others or len({id(v) for v in variables}) != len(variables) or not variables:
        raise ValueError(
            "`variables` must be different trainable variables of the model, such as "
            "`layer.trainable_variables`. Received: variables="
            f"{[getattr(v, 'path', v) for v in variables]}"
        )


def check_num_eigenvalues(num_eigenvalues: int, objective: Objective) -> None:
    """Raise ValueError if there are fewer parameters than eigenvalues asked for."""
    if num_eigenvalues > objective.num_parameters:
        raise ValueError(
            "`num_eigenvalues` must be at most the number of trainable parameters, "
            f"{objective.num_parameters}. Received: num_eigenvalues={num_eigenvalues}"
        )


def inverse_root(objective: Objective, preconditioner: Sequence[tf.Tensor] | None) -> tf.Tensor:
    """Diagonal of ``P^-½`` as a vector (n,); ones if `preconditioner` is None.

    Raises:
        ValueError: If the tensors don't match the objective's variables.
    """
    if preconditioner is None:
        return tf.ones([objective.num_parameters], objective.dtype)
    shapes = [tuple(p.shape) for p in preconditioner]
    expected = [tuple(v.shape) for v in objective.variables]
    if shapes != expected:
        raise ValueError(
            "The preconditioner must have one tensor per trainable variable, of its shape. "
            f"Expected: shapes {expected}. Received: shapes {shapes}"
        )
    return tf.math.rsqrt(objective.pack(preconditioner))
