"""The solvers for a top eigenvalue that are compared, by framework."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

import keras_aeos
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from tools.benchmarking.problems import Problem
from tools.benchmarking.reference_solvers import (
    MAX_PRODUCTS,
    TOLERANCE,
    Counted,
    arpack,
    power,
    tune_arpack,
    tune_lanczos,
    tune_power,
)

Solve = Callable[[int], tuple[float, int]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A solver for the top eigenvalue, with its settings.

    Attributes:
        name: Package and solver.
        setting: "default" or "tuned ...".
        certificate: What it says about its own error.
        solve: Function that takes the number of a start, and returns the eigenvalue and the number
            of products, as (λ, count).
    """

    name: str
    setting: str
    certificate: str
    solve: Solve


@dataclasses.dataclass(frozen=True)
class Framework:
    """A framework with its contenders.

    Attributes:
        name: As it is printed.
        loss: Function that computes the loss.
        gradient: Function that computes the gradient, the unit of the contenders' times.
        contenders: The solvers that compute their products in this framework.
        compiles: Whether a first call compiles.
    """

    name: str
    loss: Callable[[], float]
    gradient: Callable[[], list[np.ndarray]]
    contenders: list[Contender]
    compiles: bool = True


def keras_framework(problem: Problem) -> Framework:
    """TensorFlow, with keras_aeos."""
    model, x, y = problem.model, tf.constant(problem.x), tf.constant(problem.y)

    @tf.function
    def gradient() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        return loss, tape.gradient(loss, model.trainable_variables)

    objective = Objective(model, from_data((problem.x, problem.y), len(problem.x)))

    def public(repeat: int) -> tuple[float, int]:
        result = keras_aeos.top_eigenpairs(
            model, (problem.x, problem.y), batch_size=len(problem.x), seed=repeat
        )
        return float(result.eigenvalues[0]), result.num_hvps

    def traced(repeat: int) -> tuple[float, int]:
        hessian = objective.linearise()
        nothing = tf.zeros([0, objective.num_parameters], objective.dtype)
        result = lanczos(hessian.hessian_product, nothing, 1, TOLERANCE, MAX_PRODUCTS, seed=repeat)
        return float(result.eigenvalues[0]), result.num_hvps

    certificate = "error and upper bound"
    return Framework(
        "TensorFlow",
        lambda: float(gradient()[0]),
        lambda: [g.numpy() for g in gradient()[1]],
        [
            Contender("keras_aeos", "default", certificate, public),
            Contender("keras_aeos", "traced before", certificate, traced),
        ],
    )


def torch_framework(
    problem: Problem, missing: set[str], matrices: list[np.ndarray], exact: float
) -> Framework:
    """PyTorch, with the contenders that build on it."""
    import torch
    from torch.nn import functional

    convolves = problem.name == "convolutional"
    x = torch.tensor(problem.x.transpose(0, 3, 1, 2) if convolves else problem.x)
    y = torch.tensor(problem.y)
    criterion = torch.nn.CrossEntropyLoss()

    class Network(torch.nn.Module):
        """The Keras network, with parameters in Keras's order and layout."""

        def __init__(self) -> None:
            super().__init__()
            for index, weight in enumerate(problem.weights):
                self.register_parameter(f"weight_{index}", torch.nn.Parameter(torch.tensor(weight)))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            *hidden, kernel, bias = self.parameters()
            for weight, offset in zip(hidden[::2], hidden[1::2], strict=True):
                if convolves:
                    inputs = functional.conv2d(inputs, weight.permute(3, 2, 0, 1), offset)
                    inputs = functional.max_pool2d(functional.relu(inputs), 2)
                else:
                    inputs = torch.tanh(inputs @ weight + offset)
            if convolves:
                inputs = inputs.permute(0, 2, 3, 1).flatten(1)
            return inputs @ kernel + bias

    network = Network()
    parameters = list(network.parameters())

    def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def unpack(vector: torch.Tensor) -> list[torch.Tensor]:
        parts = torch.split(vector, [p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    def loss() -> float:
        return criterion(network(x), y).item()

    def gradient() -> list[np.ndarray]:
        grads = torch.autograd.grad(criterion(network(x), y), parameters)
        return [g.numpy() for g in grads]

    def plain(tol: float, max_products: int) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            grads = torch.autograd.grad(criterion(network(x), y), parameters, create_graph=True)
            product = Counted(
                lambda v: flat(
                    torch.autograd.grad(
                        grads, parameters, grad_outputs=unpack(v), retain_graph=True
                    )
                )
            )
            start = torch.tensor(problem.starts[repeat])
            return power(product, start, tol, max_products), product.count

        return solve

    num_power = tune_power(matrices, exact)
    contenders = [
        Contender("PyTorch, power iteration", "default", "no", plain(1e-3, 100)),
        Contender(
            "PyTorch, power iteration",
            f"tuned, {num_power} iterations",
            "no",
            plain(0.0, num_power),
        ),
    ]

    if "pyhessian" not in missing:
        # The package's own name `hessian` hides the module.
        importlib.import_module("pyhessian")
        module: Any = sys.modules["pyhessian.hessian"]
        if not isinstance(module.hessian_vector_product, Counted):
            module.hessian_vector_product = Counted(module.hessian_vector_product)

        def pyhessian(**options: Any) -> Solve:
            def solve(repeat: int) -> tuple[float, int]:
                # Its start comes from `torch.randn`, one call a parameter.
                parts = iter(unpack(torch.tensor(problem.starts[repeat])))
                network.zero_grad()
                before = module.hessian_vector_product.count
                draw, torch.randn = torch.randn, lambda *size: next(parts)
                try:
                    values, _ = module.hessian(
                        network, criterion, data=(x, y), cuda=False
                    ).eigenvalues(**options)
                finally:
                    torch.randn = draw
                    network.zero_grad()
                return values[0], module.hessian_vector_product.count - before

            return solve

        tuned = pyhessian(maxIter=num_power, tol=0.0)
        contenders += [
            Contender("PyHessian", "default", "no", pyhessian()),
            Contender("PyHessian", f"tuned, maxIter={num_power}", "no", tuned),
        ]

    if "hessian_eigenthings" not in missing:
        import hessian_eigenthings

        def eigenthings(**options: Any) -> Solve:
            def solve(repeat: int) -> tuple[float, int]:
                operator = hessian_eigenthings.HessianOperator(
                    network, [(x, y)], lambda net, batch: criterion(net(batch[0]), batch[1])
                )
                operator.matvec = Counted(operator.matvec)
                result = hessian_eigenthings.lanczos(operator, which="LA", seed=repeat, **options)
                return float(result.eigenvalues[0]), operator.matvec.count

            return solve

        steps = tune_lanczos(matrices, exact)
        for setting, solve in (
            ("default", eigenthings()),
            (f"tuned, k=1, max_iter={steps}", eigenthings(k=1, max_iter=steps)),
        ):
            contenders.append(Contender("hessian-eigenthings", setting, "residual", solve))

    if not missing & {"curvlinops", "scipy"}:
        import curvlinops

        def curvlinops_solver(dtype: type[np.float32] | None, check: bool, **options: Any) -> Solve:
            def solve(repeat: int) -> tuple[float, int]:
                calls = []

                class Operator(curvlinops.HessianLinearOperator):
                    def _matmat(self, M: Any) -> Any:  # noqa: N803 (the name in the base class)
                        calls.append(1)
                        return super()._matmat(M)

                operator = Operator(
                    network, criterion, parameters, [(x, y)], check_deterministic=check
                )
                product = operator.to_scipy(dtype=dtype).matvec
                start = problem.starts[repeat].astype(dtype or np.float64)
                return arpack(product, start, **options), len(calls)

            return solve

        options = tune_arpack(matrices, exact)
        for setting, solve in (
            ("default", curvlinops_solver(None, True)),
            (tuned_name(options), curvlinops_solver(np.float32, False, **options)),
        ):
            contenders.append(Contender("curvlinops, eigsh", setting, "no", solve))
    return Framework("PyTorch", loss, gradient, contenders, compiles=False)


def jax_framework(
    problem: Problem, missing: set[str], matrices: list[np.ndarray], exact: float
) -> Framework:
    """JAX, with its linearised gradient in `eigsh`."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    weights = [jnp.asarray(weight) for weight in problem.weights]
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def mean_loss(parameters: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        *hidden, kernel, bias = parameters
        for weight, offset in zip(hidden[::2], hidden[1::2], strict=True):
            if problem.name == "convolutional":
                x = lax.conv_general_dilated(
                    x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(x + offset)
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            else:
                x = jnp.tanh(x @ weight + offset)
        logits = x.reshape(len(x), -1) @ kernel + bias
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    @jax.jit
    def linearise(parameters: list[jax.Array], x: jax.Array, y: jax.Array) -> Callable:
        return jax.linearize(jax.grad(lambda p: mean_loss(p, x, y)), parameters)[1]

    boundaries = np.cumsum([weight.size for weight in weights])[:-1]

    @jax.jit
    def apply(linear: Callable, vector: jax.Array) -> jax.Array:
        parts = jnp.split(vector, boundaries)
        tangents = [p.reshape(w.shape) for p, w in zip(parts, weights, strict=True)]
        return jnp.concatenate([image.reshape(-1) for image in linear(tangents)])

    value, gradient = jax.jit(mean_loss), jax.jit(jax.grad(mean_loss))

    def solver(**options: Any) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            linear = linearise(weights, x, y)
            product = Counted(lambda v: np.asarray(apply(linear, v)))
            return arpack(product, problem.starts[repeat], **options), product.count

        return solve

    contenders = []
    if "scipy" not in missing:
        options = tune_arpack(matrices, exact)
        contenders = [
            Contender("JAX, eigsh", "default", "no", solver()),
            Contender("JAX, eigsh", tuned_name(options), "no", solver(**options)),
        ]
    return Framework(
        "JAX",
        lambda: float(value(weights, x, y)),
        lambda: [np.asarray(g) for g in gradient(weights, x, y)],
        contenders,
    )


def tuned_name(options: dict[str, Any]) -> str:
    """Name a tuned setting as the table does."""
    return "tuned, " + ", ".join(f"{name}={value:g}" for name, value in options.items())
