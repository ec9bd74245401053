"""The spectral density of a symmetric operator, by stochastic Lanczos quadrature."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.trace import random_signs
from keras_aeos.solvers.vectors import Matvec, Vectors, unit


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Distribution of the eigenvalues of an n × n matrix, estimated from random probes.

    Each probe gives a quadrature rule of m nodes for the density ``(1/n) Σᵢ δ(λ - λᵢ)``.

    Attributes:
        nodes: Ritz values, shape (probes, m).
        weights: Weights of the nodes, shape (probes, m). The weights of each probe sum to 1.
    """

    nodes: np.ndarray
    weights: np.ndarray

    def edges(self) -> np.ndarray:
        """Edges of intervals that cover the nodes, logarithmic on both sides of 0.

        Each decade has four edges, over four decades below the largest node in magnitude.
        """
        largest = np.abs(self.nodes).max()
        if not np.isfinite(largest) or largest == 0.0:
            largest = 1.0
        positive = largest * 10.0 ** (np.arange(-16, 1) / 4.0)
        positive[-1] *= 1.0 + 1e-9  # so that the interval includes the node
        return np.concatenate([-positive[::-1], [0.0], positive])

    def histogram(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractions of the eigenvalues between consecutive edges, with standard errors.

        Args:
            edges: Ascending numbers, shape (b + 1,).

        Returns:
            The fractions and their standard errors, two arrays of shape (b,); NaN if a node is.
        """
        if not np.all(np.isfinite(self.nodes)):
            nan = np.full(len(edges) - 1, np.nan)
            return nan, nan.copy()
        counts = np.stack(
            [
                np.histogram(nodes, edges, weights=weights)[0]
                for nodes, weights in zip(self.nodes, self.weights, strict=True)
            ]
        )
        return counts.mean(axis=0), counts.std(axis=0, ddof=1) / math.sqrt(len(counts))


def lanczos_quadrature(
    matvec: Matvec, like: tf.Tensor, num_probes: int, num_steps: int, seed: int = 0
) -> SpectralDensity:
    """Spectral density of a symmetric operator A.

    From each random sign vector z, m Lanczos steps give a tridiagonal T. The eigenvalues of T are
    the nodes of a Gauss quadrature of ``zᵀ f(A) z / n``. The squared first components of the
    eigenvectors are the weights. The mean of the quadrature over z is ``tr f(A) / n``.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A, same shape and dtype.
        like: A tensor of that shape and dtype.
        num_probes: Number of random vectors z, at least 2.
        num_steps: Number m of products per probe.
        seed: Seed of the random signs.

    Returns:
        A `SpectralDensity`, of NaN if a product is not finite.

    References:
        Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian
        Eigenvalue Density", 2019.
    """
    num_steps = min(num_steps, int(like.shape[0]))
    nodes = np.zeros((num_probes, num_steps))
    weights = np.zeros((num_probes, num_steps))
    for index in range(num_probes):
        vector = unit(random_signs(like, seed, index))
        basis = Vectors([vector])
        projection = np.zeros((num_steps, num_steps))
        for step in range(num_steps):
            product, beta, components = basis.orthogonalise(matvec(vector))
            if not np.isfinite(beta) or not np.all(np.isfinite(components)):
                nan = np.full((num_probes, num_steps), np.nan)
                return SpectralDensity(nan, nan.copy())
            projection[step, : step + 1] = projection[: step + 1, step] = components
            scale = np.abs(projection).max()
            if beta <= 100.0 * np.finfo(like.dtype.as_numpy_dtype).eps * scale:
                break  # the probe's Krylov space is exhausted: the quadrature is exact
            vector = product / beta
            basis.append(vector)
        size = step + 1
        nodes[index, :size], vectors = np.linalg.eigh(projection[:size, :size])
        weights[index, :size] = vectors[0] ** 2
    return SpectralDensity(nodes, weights)
