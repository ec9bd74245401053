"""The curvature of a model at one point of a training run; each number is computed once, on demand.

A `Linearisation` is passed down: `Measurement` makes it, `Curvature` and `LastUpdate` hold it, and
nothing refers back, so that its memory is freed as soon as a measurement is dropped.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_aeos.curvature.critical_learning_rate import CriticalLearningRate
from keras_aeos.curvature.layers import blocks, shares
from keras_aeos.curvature.linearisation import Linearisation
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.density import SpectralDensity, lanczos_quadrature
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.trace import TraceEstimate, hutch_plus_plus
from keras_aeos.solvers.vectors import Matvec

# Random vectors for a trace; for a spectral density, and the products with each of them.
_TRACE_PROBES = 10
_DENSITY_PROBES = 5
_DENSITY_STEPS = 20


class Measurement:
    """Loss, gradient and Hessian of a model at one point, raw and in the optimizer's coordinates.

    Args:
        objective: The `Objective`, at its model's present parameters.
        solve: Function ``(name, matvec) -> Eigenpairs`` that solves for the largest eigenpairs of
            the operator named "raw" or "preconditioned"; and with a third argument, the size, for
            those of the block of a layer, named "layer" and its number.
        preconditioner: Diagonal of P as a vector (n,); None if there is none.
        update: The last update of the parameters, a vector (n,); None if it is not known.
        per_batch: Names of the operators whose `batch_sharpness` will be asked for; names other
            than "raw" and "preconditioned" are ignored.
        seed: Seed of the random probes.
        clipping: An object whose `visit` is called with the gradient of each micro-batch, without
            a product; None (default) for none.
        critical: The `CriticalLearningRate` of the last update; None (default) if not searched for.

    Attributes:
        hessian: The `Linearisation`, with loss and gradient.
        finite: Whether loss and gradient are finite. If not, nothing else can be measured.
        raw: The `Curvature` of the Hessian H itself.
        preconditioned: The `Curvature` of ``P^-½ H P^-½``; None without a P, and `raw` if P is 1.
        preconditioner: As given.
        update: As given.
        clipping: As given.
        critical: As given.
    """

    def __init__(
        self,
        objective: Objective,
        solve: Callable[..., Eigenpairs],
        preconditioner: tf.Tensor | None,
        update: tf.Tensor | None = None,
        per_batch: Iterable[str | None] = (),
        seed: int = 0,
        clipping: Any = None,
        critical: CriticalLearningRate | None = None,
    ) -> None:
        self.preconditioner = preconditioner
        self.critical = critical
        self._shares = functools.partial(shares, objective)
        self._blocks = functools.partial(blocks, objective)
        self._solve = solve
        self.clipping = clipping
        self.update = update
        scales = {"raw": tf.ones([objective.num_parameters], objective.dtype)}
        if preconditioner is not None:
            scales["preconditioned"] = tf.math.rsqrt(preconditioner)
        trivial = preconditioner is not None and bool(tf.reduce_all(preconditioner == 1.0))
        # Where P is 1 both names stand for one operator.
        keys = {"raw": "preconditioned" if trivial else "raw", "preconditioned": "preconditioned"}

        quotients = {
            keys[name]: BatchQuotients(scales[keys[name]])
            for name in per_batch
            if name is not None and keys.get(name) in scales
        }
        visitors = list(quotients.values())
        self.hessian = objective.linearise(
            [visitor.visit for visitor in (*visitors, clipping) if visitor is not None]
        )
        self._num_visits = len(visitors)
        norm = float(tf.reduce_sum(tf.square(self.hessian.gradient)))
        self.finite = math.isfinite(self.hessian.loss) and math.isfinite(norm)

        last = None if update is None else LastUpdate(update, self.hessian)
        operators = {
            name: Curvature(
                self.hessian,
                scale,
                functools.partial(solve, name),
                last,
                quotients[name].values if name in quotients else [],
                seed,
            )
            for name, scale in scales.items()
        }
        self.raw = operators[keys["raw"]]
        self.preconditioned = operators.get("preconditioned")

    @functools.cached_property
    def shares(self) -> dict[str, float]:
        """Shares of the layers in the top eigenvector of ``P^-½HP^-½``, of H where P is not known.

        The squares of the unit vector's entries, added up by layer; empty without any vector.
        """
        vectors = (self.preconditioned or self.raw).eigenpairs.eigenvectors
        return self._shares(vectors[0]) if vectors else {}

    @functools.cached_property
    def layer_sharpness(self) -> dict[str, float]:
        """λ₁ of the diagonal block of each layer, of the same operator."""
        found = {}
        blocks = self._blocks((self.preconditioned or self.raw).operator)
        for number, (name, matvec, size) in enumerate(blocks):
            pairs = self._solve(f"layer {number}", matvec, size)
            self.hessian.num_products += pairs.num_hvps
            found[name] = float(pairs.eigenvalues[0])
        return found

    @property
    def num_hvps(self) -> int:
        """Products with the Hessian over all examples so far."""
        return self.hessian.num_products + self._num_visits


class BatchQuotients:
    """Curvature of each batch along its own gradient, ``g̃ᵀ A g̃ / ‖g̃‖²`` with ``g̃ = Sg``.

    Args:
        scale: Diagonal of S, shape (n,).

    Attributes:
        values: One number for each batch visited.
    """

    def __init__(self, scale: tf.Tensor) -> None:
        self._scale = scale
        self.values: list[float] = []

    def visit(self, gradient: tf.Tensor, product: Matvec) -> None:
        """Take note of one batch: its gradient and its Hessian as a function."""
        gradient = self._scale * gradient
        curvature = _dot(gradient, self._scale * product(self._scale * gradient))
        self.values.append(_ratio(curvature, gradient))


class LastUpdate:
    """The last update u of the parameters, a vector (n,), and the curvature along it."""

    def __init__(self, vector: tf.Tensor, hessian: Linearisation) -> None:
        self.vector = vector
        self._hessian = hessian

    @functools.cached_property
    def curvature(self) -> float:
        """``uᵀ H u``."""
        return _dot(self.vector, self._hessian.hessian_product(self.vector))


class Curvature:
    """The operator ``A = S H S`` with a diagonal S, at one point: the Hessian in coordinates x/S.

    Gradients in these coordinates are ``S g`` and updates ``u/S``.

    Args:
        hessian: The `Linearisation` of the point.
        scale: Diagonal of S, shape (n,): ones, or the diagonal of ``P^-½``.
        solve: Function ``matvec -> Eigenpairs`` that solves for the largest eigenpairs.
        update: The `LastUpdate`; None if it is not known.
        batch_quotients: Values of the `BatchQuotients` with the same S; empty if not visited.
        seed: Seed of the random probes.
    """

    def __init__(
        self,
        hessian: Linearisation,
        scale: tf.Tensor,
        solve: Callable[[Matvec], Eigenpairs],
        update: LastUpdate | None,
        batch_quotients: list[float],
        seed: int,
    ) -> None:
        self._hessian = hessian
        self._scale = scale
        self._solve = solve
        self._update = update
        self._batch_quotients = batch_quotients
        self._seed = seed

    def matvec(self, vector: tf.Tensor) -> tf.Tensor:
        """``A v`` for a vector (n,)."""
        return self._scale * self._hessian.hessian_product(self._scale * vector)

    @property
    def operator(self) -> Matvec:
        """A for a solver, whose products have to be added to those of the Hessian."""
        return self._hessian.operator(self._scale)

    @functools.cached_property
    def eigenpairs(self) -> Eigenpairs:
        """The largest eigenpairs, an `Eigenpairs` with vectors (n,)."""
        pairs = self._solve(self.operator)
        self._hessian.num_products += pairs.num_hvps
        return pairs

    @functools.cached_property
    def gradient(self) -> tf.Tensor:
        """``S ∇f``, shape (n,)."""
        return self._scale * self._hessian.gradient

    @functools.cached_property
    def alignment(self) -> float:
        """``Σᵢ (vᵢ · S∇f)²`` over the eigenvectors of `eigenpairs`; NaN without any."""
        if not self.eigenpairs.eigenvectors:
            return math.nan
        return sum(_dot(v, self.gradient) ** 2 for v in self.eigenpairs.eigenvectors)

    @functools.cached_property
    def gradient_curvature(self) -> float:
        """Curvature along the gradient, ``g̃ᵀ A g̃ / ‖g̃‖²`` with ``g̃ = S∇f``."""
        if len(self._batch_quotients) == 1:
            return self._batch_quotients[0]
        return _ratio(_dot(self.gradient, self.matvec(self.gradient)), self.gradient)

    @property
    def batch_sharpness(self) -> float:
        """Mean over the batches b of ``g̃_bᵀ A_b g̃_b / ‖g̃_b‖²``, with ``g̃_b = S∇f_b``.

        NaN if they were not visited.
        """
        if not self._batch_quotients:
            return math.nan
        return sum(self._batch_quotients) / len(self._batch_quotients)

    @functools.cached_property
    def noise(self) -> float:
        """Relative variance of the batches' products with the top eigenvector v, of eigenvalue λ.

        ``Σ_b w_b ‖A_b v‖² / λ² - 1``, where batch b has the share ``w_b`` of the examples and
        ``A = Σ_b w_b A_b``. NaN without v, and under several workers, which have no whole batch.
        """
        largest, squares = float(self.eigenpairs.eigenvalues[0]), []
        for top in self.eigenpairs.eigenvectors[:1]:
            for share, product in self._hessian.products_of_batches(self._scale * top):
                scaled = self._scale * product
                squares.append(float(share) * _dot(scaled, scaled))
        return max(0.0, sum(squares) / largest**2 - 1.0) if squares and largest else math.nan

    @functools.cached_property
    def update_curvature(self) -> float:
        """Curvature along the last update, ``ũᵀ A ũ / ‖ũ‖²`` with ``ũ = u/S``."""
        if self._update is None:
            return math.nan
        return _ratio(self._update.curvature, self._update.vector / self._scale)

    @functools.cached_property
    def trace(self) -> TraceEstimate:
        """The trace, a `TraceEstimate`."""
        pairs = self.eigenpairs
        known = pairs.eigenvectors + pairs.guard_vectors
        values: np.ndarray = pairs.ritz_values[: len(known)].copy()
        if len(known) > len(pairs.eigenvectors):
            values[-1] = pairs.ritz_values[-1]  # the last guard vector is the lowest
        return hutch_plus_plus(self.matvec, known, values, _TRACE_PROBES, self._seed)

    @functools.cached_property
    def spectral_density(self) -> SpectralDensity:
        """The distribution of the eigenvalues, a `SpectralDensity`."""
        return lanczos_quadrature(
            self.matvec, self.gradient, _DENSITY_PROBES, _DENSITY_STEPS, self._seed
        )


def _dot(first: tf.Tensor, second: tf.Tensor) -> float:
    return float(tf.tensordot(first, second, 1))


def _ratio(value: float, vector: tf.Tensor) -> float:
    """``value / ‖v‖²``; NaN along the zero vector, which has no direction."""
    norm_squared = _dot(vector, vector)
    return value / norm_squared if norm_squared else math.nan
