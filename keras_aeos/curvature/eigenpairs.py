"""The largest eigenpairs of a model's (preconditioned) Hessian."""

import dataclasses

import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.by_name import SOLVERS, check_solver


def top_eigenpairs(
    model,
    data,
    num_eigenvalues=1,
    preconditioner=None,
    solver="lanczos",
    rtol=1e-3,
    *,
    max_hvps=100,
    batch_size=None,
    seed=0,
):
    """Largest (most positive) eigenpairs of the Hessian H of the training loss, or of ``P⁻¹H``.

    With a preconditioner P the pairs satisfy ``H u = λ P u``. They are computed as those of the
    symmetric ``A = P^-½ H P^-½``, with unit eigenvectors v and ``u = P^-½ v``.

    Args:
        model: A built and compiled Keras model; the loss is that of `compile`, in training mode.
        data: What to measure on: arrays ``(x, y)`` or ``(x, y, sample_weight)``, a finite
            `tf.data.Dataset` or a `keras.utils.PyDataset` of batches. All of it is used.
        num_eigenvalues: Number k of eigenpairs.
        preconditioner: Diagonal of P, as `keras_aeos.preconditioner` gives it: a list of positive
            tensors, one per trainable variable, of its shape. None for ``P = I``.
        solver: ``"lanczos"`` or ``"power"``.
        rtol: Tolerance of the relative error of each eigenvalue: of the bound of its distance to
            the nearest eigenvalue. Lanczos also has to exclude, with a probability of 99 %, an
            eigenvalue that is larger than λ₁ by more than ``30 rtol``.
        max_hvps: Limit of the Hessian-vector products over all of `data`.
        batch_size: Rows of a micro-batch if `data` are arrays; 1,024 if None.
        seed: Seed of the solver's random start.

    Returns:
        An `Eigenpairs`: `eigenvalues` (k,), descending; `eigenvectors`, a list of k lists of
        tensors u of the trainable variables' shapes, with ``uᵀ P u = 1``; `residuals`,
        `error_bounds` and `converged` (k,); `upper_bound` of λ₁; `num_hvps`; `ritz_values`.

    Raises:
        TypeError: If `data` can't be gone through repeatedly.
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
    objective = Objective(model, from_data(data, batch_size))
    check_solver(objective.num_parameters, num_eigenvalues, solver, rtol, max_hvps)
    scale = inverse_root(objective, preconditioner)
    hessian = objective.linearise()
    result = SOLVERS[solver](
        lambda v: scale * hessian.hessian_product(scale * v),
        tf.zeros([0, objective.num_parameters], objective.dtype),
        num_eigenvalues,
        rtol,
        max_hvps,
        seed=seed,
    )
    return dataclasses.replace(
        result, eigenvectors=[objective.unpack(scale * v) for v in result.eigenvectors]
    )


def inverse_root(objective, preconditioner):
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
