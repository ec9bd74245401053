"""Which layers of a model its curvature is in: blocks of the Hessian, and parts of a vector."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.eigenpairs import Eigensolver, inverse_root, objective_of, resolve
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.precision import full_precision
from keras_aeos.solvers.by_name import SOLVERS
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.vectors import Matvec


def by_layer(model: keras.Model, variables: Sequence[keras.Variable]) -> dict[str, list[int]]:
    """Positions of the variables of each layer, by the layer's path, in the variables' order.

    A layer is the innermost that owns the variable; its path begins below the model. Of layers
    with one path, as in subclassed models, the second is called ``path (2)``, and so on.
    """
    owner = {
        id(variable): id(layer)
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
    }
    groups: dict[tuple[str, Any], list[int]] = {}
    for position, variable in enumerate(variables):
        path = variable.path.rpartition("/")[0].removeprefix(f"{model.name}/") or variable.path
        groups.setdefault((path, owner.get(id(variable))), []).append(position)
    named: dict[str, list[int]] = {}
    for (path, _), positions in groups.items():
        name, number = path, 1
        while name in named:
            number += 1
            name = f"{path} ({number})"
        named[name] = positions
    return named


def shares(objective: Objective, vector: tf.Tensor) -> dict[str, float]:
    """The share of each layer in ``‖v‖²`` of a vector (n,), by the layer's path; they add up to 1.

    Args:
        objective: The `Objective` whose variables the vector belongs to.
        vector: v, not zero.
    """
    squares = tf.stack([tf.reduce_sum(part) for part in tf.split(vector**2, objective.sizes)])
    parts = (squares / tf.reduce_sum(squares)).numpy().tolist()
    groups = by_layer(objective.model, objective.variables)
    return {name: sum(parts[i] for i in positions) for name, positions in groups.items()}


def blocks(objective: Objective, product: Matvec) -> Iterator[tuple[str, Matvec, int]]:
    """The path, the diagonal block and its size m, for each layer.

    Args:
        objective: The `Objective` whose variables the layers have.
        product: An operator, a function of vectors (n,).

    Yields:
        The path; the block, a function of vectors (m,); and m.
    """
    for name, positions in by_layer(objective.model, objective.variables).items():
        size = sum(objective.sizes[i] for i in positions)
        yield name, _block(product, objective.sizes, positions), size


def layer_eigenpairs(
    model: keras.Model,
    data: Any,
    *,
    num_eigenvalues: int = 1,
    preconditioner: Sequence[tf.Tensor] | None = None,
    solver: str | Eigensolver = "lanczos",
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Eigenpairs]:
    """Largest eigenpairs of each layer's diagonal block of the Hessian H, or of ``P⁻¹H``.

    The block of a layer is the Hessian of the loss in its variables, with all others fixed. Its λ₁
    never exceeds that of the whole: if one comes near it, the layer alone is what is sharp; if none
    does, it is how the layers act together. All solves share one linearisation. A product with a
    block costs as much as one with the whole; `top_eigenpairs` with `variables` is cheaper for a
    single layer.

    Args:
        model: A built and compiled Keras model.
        data: The examples to measure on, as for `top_eigenpairs`.
        num_eigenvalues: Positive integer. Number of eigenpairs, 1 by default; of a layer with fewer
            parameters, as many as there are.
        preconditioner: List of positive tensors or None. Diagonal of P, one tensor per trainable
            variable, of its shape. None (default) for ``P = I``.
        solver: String or `Eigensolver`. ``"lanczos"`` by default.
        batch_size: Positive integer or None. Rows per micro-batch if `data` are arrays; None
            (default) for 1,024.
        seed: Integer. Seed of the solver's random start, 0 by default.

    Returns:
        A dictionary from the path of each layer that has trainable variables to an `Eigenpairs`
        with eigenvectors of the shapes of these variables; and from ``""`` to that of the whole.

    Raises:
        TypeError: If `data` can't be iterated over repeatedly.
        ValueError: If the model is not built or compiled, or if an argument is out of range.

    Example:
        ```python
        pairs = keras_aeos.layer_eigenpairs(model, (x, y))
        whole = pairs.pop("").eigenvalues[0]
        table = {layer: block.eigenvalues[0] / whole for layer, block in pairs.items()}
        ```
    """
    constraints.check(num_eigenvalues=num_eigenvalues, seed=seed)
    method, rtol, max_hvps = resolve(solver)
    objective = objective_of(model, from_data(data, batch_size))
    scale = inverse_root(objective, preconditioner)
    whole = list(range(len(objective.sizes)))
    groups = {"": whole, **by_layer(model, objective.variables)}
    found: dict[str, Eigenpairs] = {}
    with full_precision():
        product = objective.linearise().operator(scale)
        every = [("", product, objective.num_parameters), *blocks(objective, product)]
        for name, matvec, size in every:
            positions = groups[name]
            pairs = SOLVERS[method](
                matvec,
                tf.zeros([0, size], objective.dtype),
                min(num_eigenvalues, size),
                rtol,
                max_hvps,
                seed=seed,
            )
            scales = _split(scale, objective.sizes, positions)
            variables = [objective.variables[i] for i in positions]
            vectors = [
                [
                    tf.cast(tf.reshape(s * part, v.shape), v.dtype)
                    for s, part, v in zip(
                        scales, tf.split(u, [tf.size(s) for s in scales]), variables, strict=True
                    )
                ]
                for u in pairs.eigenvectors
            ]
            found[name] = dataclasses.replace(pairs, eigenvectors=vectors)
    objective.batches.release()  # the model holds the objective
    return found


def _split(vector: tf.Tensor, sizes: Sequence[int], positions: Sequence[int]) -> list[tf.Tensor]:
    parts = tf.split(vector, sizes)
    return [parts[i] for i in positions]


def _block(product: Matvec, sizes: Sequence[int], positions: Sequence[int]) -> Matvec:
    """The diagonal block of an operator that belongs to some of the variables."""
    if len(positions) == len(sizes):
        return product
    of_block = [sizes[i] for i in positions]

    def multiply(vector: tf.Tensor) -> tf.Tensor:
        parts = [tf.zeros([size], vector.dtype) for size in sizes]
        for position, part in zip(positions, tf.split(vector, of_block), strict=True):
            parts[position] = part
        return tf.concat(_split(product(tf.concat(parts, 0)), sizes, positions), 0)

    return multiply
