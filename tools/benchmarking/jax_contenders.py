"""JAX in the comparison of solvers, without a package for curvature."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.benchmarking.contenders import Contender, Framework, Solve, Task, tuned_name
from tools.benchmarking.reference_solvers import (
    TOLERANCE,
    Counted,
    arpack,
    tune_arpack,
    tune_lanczos,
)

# Steps of the largest Krylov space of the Lanczos run that stops by its residual.
_LARGEST_SPACE = 40


def framework(task: Task, missing: set[str]) -> Framework:
    """JAX, with its compiled products in a Lanczos run of its own and in `eigsh`."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax
    from jax import lax
    from jax import numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    weights = [jnp.asarray(weight) for weight in task.weights]
    x, y = jnp.asarray(task.x), jnp.asarray(task.y)
    boundaries = np.cumsum([weight.size for weight in weights])[:-1]

    def mean_loss(parameters: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        *hidden, kernel, bias = parameters
        for weight, offset in zip(hidden[::2], hidden[1::2], strict=True):
            if task.convolves:
                x = lax.conv_general_dilated(
                    x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(x + offset)
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            else:
                x = jnp.tanh(x @ weight + offset)
        logits = x.reshape(len(x), -1) @ kernel + bias
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    def unpack(vector: jax.Array) -> list[jax.Array]:
        parts = jnp.split(vector, boundaries)
        return [part.reshape(w.shape) for part, w in zip(parts, weights, strict=True)]

    def pack(arrays: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([array.reshape(-1) for array in arrays])

    @jax.jit
    def linearise(parameters: list[jax.Array], x: jax.Array, y: jax.Array) -> Callable:
        return jax.linearize(jax.grad(lambda p: mean_loss(p, x, y)), parameters)[1]

    @jax.jit
    def apply(linear: Callable, vector: jax.Array) -> jax.Array:
        return pack(linear(unpack(vector)))

    def product(vector: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda p: mean_loss(p, x, y))
        return pack(jax.jvp(gradient, (weights,), (unpack(vector),))[1])

    def step(index: Any, state: tuple, linear: Callable) -> tuple:
        """One Lanczos step with full re-orthogonalisation."""
        basis, matrix, vector = state
        basis = basis.at[index].set(vector)
        image = pack(linear(unpack(vector)))
        matrix = matrix.at[index, index].set(vector @ image)
        for _ in range(2):
            image = image - (basis @ image) @ basis
        beta = jnp.linalg.norm(image)
        matrix = matrix.at[index, index + 1].set(beta).at[index + 1, index].set(beta)
        return basis, matrix, image / beta

    one_step = jax.jit(step, donate_argnums=(1,))

    def begin(repeat: int, num_steps: int) -> tuple:
        start = jnp.asarray(task.starts[repeat])
        space = jnp.zeros((num_steps, len(start)), start.dtype)
        matrix = jnp.zeros((num_steps + 1, num_steps + 1), start.dtype)
        return space, matrix, start / jnp.linalg.norm(start)

    def by_residual(repeat: int) -> tuple[float, int]:
        linear, state = linearise(weights, x, y), begin(repeat, _LARGEST_SPACE)
        for index in range(_LARGEST_SPACE):
            state = one_step(index, state, linear)
            matrix = np.asarray(state[1], np.float64)[: index + 2, : index + 2]
            values, vectors = np.linalg.eigh(matrix[:-1, :-1])
            if matrix[-1, -2] * abs(vectors[-1, -1]) <= TOLERANCE * abs(values[-1]):
                break
        return float(values[-1]), index + 1

    num_tuned = tune_lanczos(task.matrices, task.exact)

    @jax.jit
    def many_steps(state: tuple, x: jax.Array, y: jax.Array) -> jax.Array:
        linear = jax.linearize(jax.grad(lambda p: mean_loss(p, x, y)), weights)[1]
        matrix = lax.fori_loop(0, num_tuned, lambda i, s: step(i, s, linear), state)[1]
        return jnp.linalg.eigvalsh(matrix[:-1, :-1])[-1]

    def tuned(repeat: int) -> tuple[float, int]:
        return float(many_steps(begin(repeat, num_tuned), x, y)), num_tuned

    def in_eigsh(**options: Any) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            linear = linearise(weights, x, y)
            counted = Counted(lambda v: np.asarray(apply(linear, v)))
            return arpack(counted, task.starts[repeat], **options), counted.count

        return solve

    contenders = [
        Contender("JAX, Lanczos", f"residual ≤ {TOLERANCE:g}", "residual", by_residual),
        Contender("JAX, Lanczos in one graph", f"tuned, {num_tuned} steps", "no", tuned),
    ]
    if "scipy" not in missing:
        options = tune_arpack(task.matrices, task.exact)
        contenders += [
            Contender("JAX, eigsh", "default", "no", in_eigsh()),
            Contender("JAX, eigsh", tuned_name(options), "no", in_eigsh(**options)),
        ]
    gradient, value = jax.jit(jax.grad(mean_loss)), jax.jit(mean_loss)
    vector, compiled_product = jnp.asarray(task.starts[0]), jax.jit(product)
    kept: list[Callable] = []

    def linearised() -> None:
        if not kept:
            kept.append(linearise(weights, x, y))
        jax.block_until_ready(apply(kept[0], vector))

    return Framework(
        loss=lambda: float(value(weights, x, y)),
        gradient=lambda: jax.block_until_ready(gradient(weights, x, y)),
        products={
            "JAX, jvp of grad": lambda: jax.block_until_ready(compiled_product(vector, x, y)),
            "JAX, linearize": linearised,
        },
        contenders=contenders,
        device=jax.default_backend(),
    )
