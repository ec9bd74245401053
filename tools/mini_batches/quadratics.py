"""Least squares in mini-batches, whose edge of stability is known exactly."""

from collections.abc import Sequence

import numpy as np

from keras_aeos.stability import Momentum
from tools.mini_batches.plan import BETA


def at_the_edge(
    num_parameters: int = 6, num_examples: int = 60, batch_sizes: Sequence[int] = (1, 4, 16, 64)
) -> list[dict[str, str]]:
    """Rows of the table: least squares in random batches, at the exact edge."""
    generator = np.random.default_rng(0)
    examples = generator.standard_normal((num_examples, num_parameters))
    examples *= np.arange(1.0, num_parameters + 1.0) ** -0.5
    rows = []
    for name, momentum in {
        "none": Momentum.none(),
        "EMA heavy ball": Momentum.heavy_ball(BETA, ema=True),
        "EMA Nesterov": Momentum.nesterov(BETA, ema=True),
    }.items():
        for batch_size in batch_sizes:
            hessian, variance = hessian_moments(examples, batch_size)
            rate = exact_edge(momentum, hessian, variance)
            values, vectors = np.linalg.eigh(hessian)
            noise = noise_along(variance, vectors[:, -1]) / values[-1] ** 2
            recurrence = momentum.recurrence(rate)
            rows.append(
                {
                    "momentum": name,
                    "batch": str(batch_size),
                    "λ₁ / λ*": f"{values[-1] / recurrence.stability_threshold():.2f}",
                    "σ²": f"{noise:.3g}",
                    "λ₁ / λ_σ": f"{values[-1] / recurrence.mean_square_threshold(noise):.2f}",
                }
            )
    return rows


def hessian_moments(examples: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of ``H_b = Σ aaᵀ / b`` over batches of b independent examples a.

    Returns:
        H, shape (n, n), and ``E dH_ij dH_kl``, shape (n, n, n, n), for ``dH = H_b - H``.
    """
    hessian = examples.T @ examples / len(examples)
    squares = np.einsum("ai,aj,ak,al->ijkl", *[examples] * 4) / len(examples)
    return hessian, (squares - np.einsum("ij,kl->ijkl", hessian, hessian)) / batch_size


def noise_along(variance: np.ndarray, vector: np.ndarray) -> float:
    """``E ‖dH v‖²``."""
    return float(np.einsum("ijil,j,l->", variance, vector, vector))


def exact_edge(momentum: Momentum, hessian: np.ndarray, variance: np.ndarray) -> float:
    """The learning rate at which the second moments of all parameters begin to grow."""
    largest = np.linalg.eigvalsh(hessian)[-1]
    low, high = 0.0, 1.01 * momentum.recurrence(1.0).stability_threshold() / largest
    for _ in range(25):
        middle = (low + high) / 2.0
        moments = moment_map(momentum, middle, hessian, variance)
        stable = np.abs(np.linalg.eigvals(moments)).max() <= 1.0 + 1e-9
        low, high = (middle, high) if stable else (low, middle)
    return low


def moment_map(
    momentum: Momentum, rate: float, hessian: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """The map of ``E s sᵀ``, flat, for the state s of parameters and buffers."""
    one = np.eye(len(hessian))
    beta, weight = momentum.beta, momentum.gradient_weight
    share, own = momentum.buffer_share, momentum.gradient_share
    # What the curvature is multiplied by, in the parameters and in the buffer.
    entry = np.concatenate([-rate * (share * weight + own) * one, weight * one])
    mean = np.block([[one, -rate * share * beta * one], [0.0 * one, beta * one]])
    mean[:, : len(one)] += entry @ hessian
    read = np.concatenate([one, 0.0 * one], axis=1)
    spread = variance.transpose(0, 2, 1, 3).reshape(len(one) ** 2, -1)
    return np.kron(mean, mean) + np.kron(entry, entry) @ spread @ np.kron(read, read)
