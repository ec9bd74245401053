"""The top eigenvalue of one Hessian, by keras_aeos and by its peers, in one run.

    pip install -e ".[benchmark]"
    python tools/peers.py

Every contender gets the same network with the same weights, the same data and one thread. One
table is printed for each network; a package that is not installed is left out, with a line that
says so. Its columns:

- error: of the eigenvalue, relative to a reference in float64; the largest over the repeats.
- products: with the Hessian over all examples.
- gradients: time of a solve in times of one gradient in the same framework.
- time: of a solve, relative to that of `keras_aeos.top_eigenpairs`.
- first call: what the first solve took longer, in seconds: tracing and compilation, which PyTorch
  does without.
- certificate: what the contender says about the error of its own answer.

Each repeat has a random start of its own, shared where a contender lets it be chosen. Medians are
printed except for the error. The settings called "tuned" are the cheapest ones that reach a
relative error of 1e-3 from all of these starts, found on the tridiagonal matrices of Lanczos runs
from the same starts: only who knows the answer can choose them, and they certify nothing.
"""

import dataclasses
import importlib
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras_aeos
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.lanczos import lanczos
from keras_aeos.curvature.objective import Objective
from tools.peer_solvers import (
    MAX_PRODUCTS,
    TOLERANCE,
    Counted,
    arpack,
    power,
    tridiagonal,
    tune_arpack,
    tune_lanczos,
    tune_power,
)

# More threads than free cores would measure how the frameworks wait for each other's threads.
NUM_THREADS = 1
NUM_REPEATS = 3
NUM_STEPS = 30
# Steps of the Lanczos runs that the reference and the tuned settings are taken from.
NUM_REFERENCE_STEPS = 40
COLUMNS = ("error", "products", "gradients", "time", "first call / s", "certificate")
PEERS = ("scipy", "torch", "pyhessian", "hessian_eigenthings", "curvlinops", "jax")


@dataclasses.dataclass
class Problem:
    """A network, data to measure it on, and starts of the solvers.

    Attributes:
        name: "fully_connected" or "convolutional".
        model: The Keras model.
        x: Inputs (N, ...), channels last.
        y: Labels (N,).
        starts: Start vectors (n,), one a repeat, parameters in Keras's order and layout.
    """

    name: str
    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    starts: list[np.ndarray]

    @property
    def weights(self) -> list[np.ndarray]:
        """Arrays of the trainable variables."""
        return [np.asarray(variable) for variable in self.model.trainable_variables]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to the top eigenvalue.

    Attributes:
        name: Package and solver.
        setting: "default" or "tuned ...".
        framework: Whose gradient it is compared with.
        certificate: What it says about its own error.
        solve: Function of the number of the start that returns the eigenvalue and the number of
            products, as (λ, count).
    """

    name: str
    setting: str
    framework: str
    certificate: str
    solve: Callable[[int], tuple[float, int]]


def fully_connected(dtype: str = "float32") -> keras.Model:
    """Five hidden layers of 200 units on CIFAR-10's shape."""
    hidden = [layers.Dense(200, "tanh", dtype=dtype) for _ in range(5)]
    return keras.Sequential(
        [keras.Input((3072,), dtype=dtype), *hidden, layers.Dense(10, dtype=dtype)]
    )


def convolutional(dtype: str = "float32") -> keras.Model:
    """Two convolutions on CIFAR-10's shape."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype=dtype),
            layers.Conv2D(8, 3, activation="relu", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
            layers.Conv2D(16, 3, activation="relu", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
            layers.Flatten(dtype=dtype),
            layers.Dense(10, dtype=dtype),
        ]
    )


BUILDERS = {"fully_connected": (fully_connected, 1000), "convolutional": (convolutional, 500)}


def compiled(model: keras.Model) -> keras.Model:
    """The model with its loss and Adam."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def prepare(name: str) -> Problem:
    """A network after some steps of full-batch Adam on random data."""
    keras.utils.set_random_seed(0)
    build, num_examples = BUILDERS[name]
    model = compiled(build())
    generator = np.random.default_rng(0)
    x = generator.standard_normal((num_examples, *model.input_shape[1:]), dtype=np.float32)
    y = generator.integers(0, 10, num_examples)
    model.fit(x, y, batch_size=num_examples, epochs=NUM_STEPS, shuffle=False, verbose=0)
    starts = [
        generator.standard_normal(model.count_params(), dtype=np.float32)
        for _ in range(NUM_REPEATS)
    ]
    return Problem(name, model, x, y, starts)


def refer(problem: Problem) -> tuple[float, float, list[np.ndarray]]:
    """The reference: a Rayleigh quotient in float64 at the end of a long Lanczos run.

    Returns:
        The eigenvalue, the bound of its distance to the nearest eigenvalue relative to itself
        (the residual in float64), and the tridiagonal matrix of each start.
    """
    data = from_data((problem.x, problem.y), len(problem.x))
    hessian = Objective(problem.model, data).linearise()
    product = lambda v: hessian.hessian_product(tf.constant(v, tf.float32)).numpy()  # noqa: E731
    runs = [tridiagonal(product, start, NUM_REFERENCE_STEPS) for start in problem.starts]
    matrix, basis = runs[0]
    vector = basis.T @ np.linalg.eigh(matrix)[1][:, -1]

    double = compiled(BUILDERS[problem.name][0]("float64"))
    double.set_weights(problem.model.get_weights())
    data = from_data((problem.x.astype(np.float64), problem.y), len(problem.x))
    image = Objective(double, data).linearise().hessian_product(tf.constant(vector)).numpy()
    value = vector @ image / (vector @ vector)
    residual = np.linalg.norm(image - value * vector) / np.linalg.norm(vector) / value
    return float(value), float(residual), [matrix for matrix, _ in runs]


def keras_contenders(problem: Problem) -> tuple[Callable, Callable, list[Contender]]:
    """Loss and gradient of TensorFlow, and keras_aeos."""
    model, x, y = problem.model, tf.constant(problem.x), tf.constant(problem.y)

    @tf.function
    def gradient():
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
    return (
        lambda: float(gradient()[0]),
        lambda: [g.numpy() for g in gradient()[1]],
        [
            Contender("keras_aeos", "default", "TensorFlow", certificate, public),
            Contender("keras_aeos", "traced before", "TensorFlow", certificate, traced),
        ],
    )


def torch_contenders(
    problem: Problem, missing: set[str], matrices: list[np.ndarray], exact: float
) -> tuple[Callable, Callable, list[Contender]]:
    """Loss and gradient of PyTorch, and the contenders that build on it."""
    import torch
    from torch.nn import functional

    convolves = problem.name == "convolutional"
    x = torch.tensor(problem.x.transpose(0, 3, 1, 2) if convolves else problem.x)
    y = torch.tensor(problem.y)
    criterion = torch.nn.CrossEntropyLoss()

    class Network(torch.nn.Module):
        """The Keras network, with parameters in Keras's order and layout."""

        def __init__(self):
            super().__init__()
            for index, weight in enumerate(problem.weights):
                self.register_parameter(f"weight_{index}", torch.nn.Parameter(torch.tensor(weight)))

        def forward(self, inputs):
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

    def flat(tensors) -> torch.Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def unpack(vector):
        parts = torch.split(vector, [p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    def loss() -> float:
        return criterion(network(x), y).item()

    def gradient() -> list[np.ndarray]:
        grads = torch.autograd.grad(criterion(network(x), y), parameters)
        return [g.numpy() for g in grads]

    def plain(tol: float, max_products: int) -> Callable:
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
        Contender("PyTorch, power iteration", "default", "PyTorch", "no", plain(1e-3, 100)),
        Contender(
            "PyTorch, power iteration",
            f"tuned, {num_power} iterations",
            "PyTorch",
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

        def pyhessian(**options) -> Callable:
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
            Contender("PyHessian", "default", "PyTorch", "no", pyhessian()),
            Contender("PyHessian", f"tuned, maxIter={num_power}", "PyTorch", "no", tuned),
        ]

    if "hessian_eigenthings" not in missing:
        import hessian_eigenthings

        def eigenthings(**options) -> Callable:
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
            contenders.append(
                Contender("hessian-eigenthings", setting, "PyTorch", "residual", solve)
            )

    if not missing & {"curvlinops", "scipy"}:
        import curvlinops

        def curvlinops_solver(dtype, check, **options) -> Callable:
            def solve(repeat: int) -> tuple[float, int]:
                calls = []

                class Operator(curvlinops.HessianLinearOperator):
                    def _matmat(self, M):  # noqa: N803 (the name in the base class)
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
            contenders.append(Contender("curvlinops, eigsh", setting, "PyTorch", "no", solve))
    return loss, gradient, contenders


def jax_contenders(
    problem: Problem, missing: set[str], matrices: list[np.ndarray], exact: float
) -> tuple[Callable, Callable, list[Contender]]:
    """Loss and gradient of JAX, and its linearised gradient in `eigsh`."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    weights = [jnp.asarray(weight) for weight in problem.weights]
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def mean_loss(parameters, x, y):
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
    def linearise(parameters, x, y):
        return jax.linearize(jax.grad(lambda p: mean_loss(p, x, y)), parameters)[1]

    boundaries = np.cumsum([weight.size for weight in weights])[:-1]

    @jax.jit
    def apply(linear, vector):
        parts = jnp.split(vector, boundaries)
        tangents = [p.reshape(w.shape) for p, w in zip(parts, weights, strict=True)]
        return jnp.concatenate([image.reshape(-1) for image in linear(tangents)])

    value, gradient = jax.jit(mean_loss), jax.jit(jax.grad(mean_loss))

    def solver(**options) -> Callable:
        def solve(repeat: int) -> tuple[float, int]:
            linear = linearise(weights, x, y)
            product = Counted(lambda v: np.asarray(apply(linear, v)))
            return arpack(product, problem.starts[repeat], **options), product.count

        return solve

    contenders = []
    if "scipy" not in missing:
        options = tune_arpack(matrices, exact)
        contenders = [
            Contender("JAX, eigsh", "default", "JAX", "no", solver()),
            Contender("JAX, eigsh", tuned_name(options), "JAX", "no", solver(**options)),
        ]
    return (
        lambda: float(value(weights, x, y)),
        lambda: [np.asarray(g) for g in gradient(weights, x, y)],
        contenders,
    )


def tuned_name(options: dict[str, Any]) -> str:
    """What a tuned setting is called in the table."""
    return "tuned, " + ", ".join(f"{name}={value:g}" for name, value in options.items())


def disagreement(losses: dict[str, float]) -> str:
    """A line that says which losses differ from the first one by more than 1e-4; empty if none."""
    first = next(iter(losses.values()))
    wrong = [name for name, loss in losses.items() if abs(loss / first - 1.0) > 1e-4]
    return f"The losses differ, of {', '.join(wrong)}: {losses}" if wrong else ""


def timed(function: Callable, *arguments) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def compare(problem: Problem, missing: set[str]) -> None:
    """Print the table of one network."""
    exact, residual, matrices = refer(problem)
    parts = {"TensorFlow": keras_contenders(problem)}
    if "torch" not in missing:
        parts["PyTorch"] = torch_contenders(problem, missing, matrices, exact)
    if "jax" not in missing:
        parts["JAX"] = jax_contenders(problem, missing, matrices, exact)
    losses = {name: loss() for name, (loss, _, _) in parts.items()}
    spectrum = ", ".join(f"{v:.4g}" for v in np.linalg.eigvalsh(matrices[0])[[-1, -2, -3, 0]])
    print(
        f"\n{problem.name}: {problem.model.count_params():,} parameters, {len(problem.x):,} "
        f"examples, loss {losses['TensorFlow']:.6f}; λ₁ = {exact:.8g}, residual {residual:.1e}; "
        f"λ₁, λ₂, λ₃ and the smallest: {spectrum}\n"
    )
    if disagreement(losses):
        print(disagreement(losses))
        return

    gradients: dict[str, list[float]] = {name: [] for name in parts}
    failed: set[Contender] = set()
    first: dict[Contender, float] = {}
    seconds: dict[Contender, list[float]] = {
        c: [] for _, _, contenders in parts.values() for c in contenders
    }
    results: dict[Contender, list[tuple[float, int]]] = {contender: [] for contender in seconds}
    for name, (_, gradient, contenders) in parts.items():
        gradient()
        if name != "PyTorch":  # nothing is compiled there
            for contender in contenders:
                first[contender], _ = timed(contender.solve, 0)
    for repeat in range(NUM_REPEATS):
        for name, (_, gradient, contenders) in parts.items():
            gradients[name].append(timed(gradient)[0])
            for contender in contenders:
                if contender in failed:
                    continue
                try:
                    duration, result = timed(contender.solve, repeat)
                except Exception as error:  # a peer's, of whatever kind
                    failed.add(contender)
                    reason = f"{type(error).__name__}: {error}"
                    print(f"{contender.name} ({contender.setting}) failed: {reason}\n")
                else:
                    seconds[contender].append(duration)
                    results[contender].append(result)
            gradients[name].append(timed(gradient)[0])

    ours = statistics.median(seconds[parts["TensorFlow"][2][0]])
    rows = {}
    for contender, durations in seconds.items():
        if contender in failed:
            continue
        median = statistics.median(durations)
        rows[contender.name, contender.setting] = (
            max(abs(value / exact - 1.0) for value, _ in results[contender]),
            statistics.median(count for _, count in results[contender]),
            median / statistics.median(gradients[contender.framework]),
            median / ours,
            max(first[contender] - median, 0.0) if contender in first else None,
            contender.certificate,
        )
    print(markdown(rows))
    per_gradient = {name: 1e3 * statistics.median(values) for name, values in gradients.items()}
    print("\nA gradient, in ms: " + ", ".join(f"{n} {ms:.0f}" for n, ms in per_gradient.items()))


def markdown(rows: dict[tuple[str, str], tuple]) -> str:
    """The rows as a Markdown table."""
    lines = ["| solver | setting | " + " | ".join(COLUMNS) + " |"]
    lines.append("| --- | --- " + "| ---: " * (len(COLUMNS) - 1) + "| --- |")
    for names, (error, products, gradients, ratio, first, certificate) in rows.items():
        cells = [*names, f"{error:.1e}", f"{products:g}", f"{gradients:.1f}", f"{ratio:.2f}"]
        cells += ["none" if first is None else f"{first:.1f}", certificate]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def unavailable(packages: Iterable[str]) -> dict[str, str]:
    """Packages that can't be imported, with what Python says about it."""
    reasons = {}
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            reasons[package] = f"{type(error).__name__}: {error}"
    return reasons


def start_jax() -> None:
    """Let JAX make its threads: as many as it sees processors, for want of a setting."""
    import jax

    if not hasattr(os, "sched_setaffinity"):
        print("JAX takes as many threads as there are processors.")
        return
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(processors)[:NUM_THREADS])
    jax.devices()
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


def main() -> None:
    """Print one table a network."""
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    # PyHessian keeps gradients with their graph in the parameters; PyTorch warns of it.
    warnings.filterwarnings("ignore", "Using backward", UserWarning)
    # Triton, which PyTorch's GPU wheels bring along, crashes beside TensorFlow; nothing needs it.
    sys.modules["triton"] = None  # type: ignore[assignment]
    reasons = unavailable(PEERS)
    for package, reason in reasons.items():
        print(f"{package} is left out: {reason}")
    if "torch" not in reasons:
        import torch

        torch.set_num_threads(NUM_THREADS)
    if "jax" not in reasons:
        start_jax()
    for name in BUILDERS:
        compare(prepare(name), set(reasons))


if __name__ == "__main__":
    main()
