"""PyTorch in the comparison of solvers, with the packages for curvature that build on it."""

import dataclasses
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tools.benchmarking.contenders import Contender, Framework, Solve, Task, tuned_name
from tools.benchmarking.reference_solvers import (
    Counted,
    arpack,
    power,
    tune_arpack,
    tune_lanczos,
    tune_power,
)

Parameters = dict[str, torch.Tensor]


class Network(torch.nn.Module):
    """The Keras network, with parameters in Keras's order and layout."""

    def __init__(self, weights: Iterable[np.ndarray], convolves: bool) -> None:
        super().__init__()
        self._convolves = convolves
        for index, weight in enumerate(weights):
            self.register_parameter(f"weight_{index}", torch.nn.Parameter(torch.tensor(weight)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        *hidden, kernel, bias = self.parameters()
        for weight, offset in zip(hidden[::2], hidden[1::2], strict=True):
            if self._convolves:
                inputs = functional.conv2d(inputs, weight.permute(3, 2, 0, 1), offset)
                inputs = functional.max_pool2d(functional.relu(inputs), 2)
            else:
                inputs = torch.tanh(inputs @ weight + offset)
        if self._convolves:
            inputs = inputs.permute(0, 2, 3, 1).flatten(1)
        return inputs @ kernel + bias


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task in PyTorch, on its device."""

    task: Task
    network: Network
    x: torch.Tensor
    y: torch.Tensor
    device: str

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Parameters, in Keras's order."""
        return list(self.network.parameters())

    def criterion(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross-entropy."""
        return functional.cross_entropy(outputs, labels)

    def start(self, repeat: int) -> torch.Tensor:
        """A start vector (n,)."""
        return torch.tensor(self.task.starts[repeat], device=self.device)

    def unpack(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The parts of a vector (n,), shaped like the parameters."""
        parts = torch.split(vector, [p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def gradient(self, **options: Any) -> tuple[torch.Tensor, ...]:
        """The gradient; `create_graph=True` for one that has a derivative."""
        loss = self.criterion(self.network(self.x), self.y)
        return torch.autograd.grad(loss, self.parameters, **options)

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def framework(task: Task, missing: set[str]) -> Framework:
    """PyTorch, with the contenders that build on it."""
    # PyHessian keeps gradients with their graph in the parameters, about which PyTorch warns.
    warnings.filterwarnings("ignore", "Using backward", UserWarning)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = np.ascontiguousarray(task.x.transpose(0, 3, 1, 2)) if task.convolves else task.x
    setting = Setting(
        task,
        Network(task.weights, task.convolves).to(device),
        torch.tensor(x, device=device),
        torch.tensor(task.y, device=device),
        device,
    )
    contenders = by_power_iteration(setting)
    if "pyhessian" not in missing:
        contenders += pyhessian(setting)
    if "hessian_eigenthings" not in missing:
        contenders += eigenthings(setting)
    if not missing & {"curvlinops", "scipy"}:
        contenders += curvlinops(setting)

    def gradient() -> None:
        setting.gradient()
        setting.wait()

    return Framework(
        loss=lambda: setting.criterion(setting.network(setting.x), setting.y).item(),
        gradient=gradient,
        products=products(setting),
        contenders=contenders,
        device="gpu" if device == "cuda" else "cpu",
    )


def products(setting: Setting) -> dict[str, Callable[[], None]]:
    """One product each: eager with the gradient's graph kept, and compiled."""
    vector = setting.unpack(setting.start(0))
    kept: list[tuple[torch.Tensor, ...]] = []

    def eager() -> None:
        if not kept:
            kept.append(setting.gradient(create_graph=True))
        torch.autograd.grad(kept[0], setting.parameters, grad_outputs=vector, retain_graph=True)
        setting.wait()

    names = [name for name, _ in setting.network.named_parameters()]
    values = {name: p.detach() for name, p in setting.network.named_parameters()}

    def loss(parameters: Parameters) -> torch.Tensor:
        outputs = torch.func.functional_call(setting.network, parameters, (setting.x,))
        return setting.criterion(outputs, setting.y)

    def along(parameters: Parameters, direction: Parameters) -> Parameters:
        return torch.func.jvp(torch.func.grad(loss), (parameters,), (direction,))[1]

    def of_compiled(parameters: list[torch.Tensor], direction: list[torch.Tensor]) -> Any:
        value = loss(dict(zip(names, parameters, strict=True)))
        gradient = torch.autograd.grad(value, parameters, create_graph=True)
        return torch.autograd.grad(gradient, parameters, grad_outputs=direction)

    direction = dict(zip(names, vector, strict=True))
    compiled_jvp = torch.compile(along)
    compiled_twice = torch.compile(of_compiled, fullgraph=True)

    def by_jvp() -> None:
        compiled_jvp(values, direction)
        setting.wait()

    def by_double_backward() -> None:
        compiled_twice(setting.parameters, vector)
        setting.wait()

    return {
        "PyTorch, double backward": eager,
        "PyTorch, compiled jvp of grad": by_jvp,
        "PyTorch, compiled double backward": by_double_backward,
    }


def by_power_iteration(setting: Setting) -> list[Contender]:
    """Power iteration by hand."""

    def plain(tol: float, max_products: int) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            grads = setting.gradient(create_graph=True)

            def product(vector: torch.Tensor) -> torch.Tensor:
                images = torch.autograd.grad(
                    grads,
                    setting.parameters,
                    grad_outputs=setting.unpack(vector),
                    retain_graph=True,
                )
                return torch.cat([image.reshape(-1) for image in images])

            counted = Counted(product)
            return power(counted, setting.start(repeat), tol, max_products), counted.count

        return solve

    number = tune_power(setting.task.matrices, setting.task.exact)
    name = "PyTorch, power iteration"
    return [
        Contender(name, "default", "no", plain(1e-3, 100)),
        Contender(name, f"tuned, {number} iterations", "no", plain(0.0, number)),
    ]


def pyhessian(setting: Setting) -> list[Contender]:
    """PyHessian's power iteration."""
    # The package's own name `hessian` hides the module.
    importlib.import_module("pyhessian")
    module: Any = sys.modules["pyhessian.hessian"]
    module.hessian_vector_product = Counted(module.hessian_vector_product)

    def solver(**options: Any) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            # Its start comes from `torch.randn`, one call a parameter.
            parts = iter(setting.unpack(setting.start(repeat)))
            setting.network.zero_grad()
            before = module.hessian_vector_product.count
            draw, torch.randn = torch.randn, lambda *size: next(parts)
            try:
                values, _ = module.hessian(
                    setting.network,
                    setting.criterion,
                    data=(setting.x, setting.y),
                    cuda=setting.device == "cuda",
                ).eigenvalues(**options)
            finally:
                torch.randn = draw
                setting.network.zero_grad()
            return values[0], module.hessian_vector_product.count - before

        return solve

    number = tune_power(setting.task.matrices, setting.task.exact)
    tuned = solver(maxIter=number, tol=0.0)
    return [
        Contender("PyHessian", "default", "no", solver()),
        Contender("PyHessian", f"tuned, maxIter={number}", "no", tuned),
    ]


def eigenthings(setting: Setting) -> list[Contender]:
    """The Lanczos method of hessian-eigenthings, which draws its own starts."""
    import hessian_eigenthings

    def solver(**options: Any) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            operator = hessian_eigenthings.HessianOperator(
                setting.network,
                [(setting.x, setting.y)],
                lambda network, batch: setting.criterion(network(batch[0]), batch[1]),
            )
            operator.matvec = Counted(operator.matvec)
            result = hessian_eigenthings.lanczos(operator, which="LA", seed=repeat, **options)
            return float(result.eigenvalues[0]), operator.matvec.count

        return solve

    steps = tune_lanczos(setting.task.matrices, setting.task.exact)
    settings = {"default": {}, f"tuned, k=1, max_iter={steps}": {"k": 1, "max_iter": steps}}
    return [
        Contender("hessian-eigenthings", name, "residual", solver(**options))
        for name, options in settings.items()
    ]


def curvlinops(setting: Setting) -> list[Contender]:
    """The products of curvlinops in SciPy's `eigsh`."""
    import curvlinops as package

    def solver(dtype: type[np.float32] | None, check: bool, **options: Any) -> Solve:
        def solve(repeat: int) -> tuple[float, int]:
            calls = []

            class Operator(package.HessianLinearOperator):
                def _matmat(self, M: Any) -> Any:  # noqa: N803 (the name in the base class)
                    calls.append(1)
                    return super()._matmat(M)

            operator = Operator(
                setting.network,
                torch.nn.CrossEntropyLoss(),
                setting.parameters,
                [(setting.x, setting.y)],
                check_deterministic=check,
            )
            product = operator.to_scipy(dtype=dtype).matvec
            start = setting.task.starts[repeat].astype(dtype or np.float64)
            return arpack(product, start, **options), len(calls)

        return solve

    options = tune_arpack(setting.task.matrices, setting.task.exact)
    tuned = solver(np.float32, False, **options)
    return [
        Contender("curvlinops, eigsh", "default", "no", solver(None, True)),
        Contender("curvlinops, eigsh", tuned_name(options), "no", tuned),
    ]
