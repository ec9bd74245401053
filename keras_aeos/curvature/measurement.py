"""All that is measured at one point of a training run, each thing once and on demand."""

import functools
import math
import weakref

import tensorflow as tf

from keras_aeos.solvers.density import lanczos_quadrature
from keras_aeos.solvers.trace import hutch_plus_plus

# Random vectors for a trace; for a spectral density, and the products with each of them.
_TRACE_PROBES = 10
_DENSITY_PROBES = 5
_DENSITY_STEPS = 20


class Measurement:
    """Loss, gradient and Hessian of a model at one point, raw and in the optimizer's coordinates.

    What two quantities have in common, the linearisation of the Hessian, an eigensolve or a
    product, is computed when it is first asked for, and kept.

    Args:
        objective: The `Objective`, at its model's present parameters.
        solve: Function ``(name, matvec) -> Eigenpairs`` that solves for the largest eigenpairs of
            the operator with the name "raw" or "preconditioned".
        preconditioner: Diagonal of P as a vector (n,); None if there is none.
        update: The last update of the parameters, a vector (n,); None if it is not known.
        per_batch: Names of the operators whose `batch_sharpness` will be asked for; others than
            "raw" and "preconditioned" don't count.
        seed: Seed of the random probes.

    Attributes:
        raw: The `Curvature` of the Hessian H itself.
        preconditioned: That of ``P^-½ H P^-½``; None without a P, and `raw` where P is 1.
    """

    def __init__(self, objective, solve, preconditioner, update=None, per_batch=(), seed=0):
        self._objective = objective
        self.preconditioner = preconditioner
        self.update = update
        ones = tf.ones([objective.num_parameters], objective.dtype)
        # Weak: in a cycle the kept values, a GiB, would wait for the garbage collector.
        point = weakref.proxy(self)
        self.raw = Curvature(point, ones, lambda a: solve("raw", a), seed)
        self.preconditioned = None
        if preconditioner is not None:
            self.preconditioned = Curvature(
                point, tf.math.rsqrt(preconditioner), lambda a: solve("preconditioned", a), seed
            )
            if bool(tf.reduce_all(preconditioner == 1.0)):
                self.raw = self.preconditioned
        operators = {"raw": self.raw, "preconditioned": self.preconditioned}
        wanted = [operators.get(name) for name in per_batch]
        self._per_batch = [operator for operator in dict.fromkeys(wanted) if operator]

    @functools.cached_property
    def hessian(self):
        """The `Linearisation`, with loss and gradient."""
        return self._objective.linearise(self._visit if self._per_batch else None)

    @property
    def num_hvps(self):
        """Products with the Hessian over all examples so far."""
        return self.hessian.num_products + len(self._per_batch)

    @functools.cached_property
    def finite(self):
        """Whether loss and gradient are finite: otherwise nothing else can be measured."""
        norm = float(tf.reduce_sum(tf.square(self.hessian.gradient)))
        return math.isfinite(self.hessian.loss) and math.isfinite(norm)

    @functools.cached_property
    def along_update(self):
        """``uᵀ H u`` for the last update u."""
        return _dot(self.update, self.hessian.hessian_product(self.update))

    def _visit(self, gradient, product):
        for operator in self._per_batch:
            operator.visit(gradient, product)


class Curvature:
    """The operator ``A = S H S`` with a diagonal S, at one point: the Hessian in coordinates x/S.

    Gradients in these coordinates are ``S g`` and updates ``u/S``.

    Args:
        measurement: The `Measurement` of the point, which has to live as long as this.
        scale: Diagonal of S, shape (n,): ones, or the diagonal of ``P^-½``.
        solve: Function ``matvec -> Eigenpairs`` that solves for the largest eigenpairs.
        seed: Seed of the random probes.
    """

    def __init__(self, measurement, scale, solve, seed):
        self._measurement = measurement
        self._scale = scale
        self._solve = solve
        self._seed = seed
        self._batch_curvatures = []

    @property
    def _hessian(self):
        return self._measurement.hessian

    def matvec(self, vector):
        """``A v`` for a vector (n,)."""
        return self._scale * self._hessian.hessian_product(self._scale * vector)

    @functools.cached_property
    def eigenpairs(self):
        """The largest eigenpairs, an `Eigenpairs` with vectors (n,)."""
        return self._solve(self.matvec)

    @functools.cached_property
    def gradient(self):
        """``S ∇f``, shape (n,)."""
        return self._scale * self._hessian.gradient

    @functools.cached_property
    def alignment(self):
        """``Σᵢ (vᵢ · S∇f)²`` over the eigenvectors of `eigenpairs`."""
        return sum(_dot(v, self.gradient) ** 2 for v in self.eigenpairs.eigenvectors)

    @functools.cached_property
    def gradient_curvature(self):
        """Curvature along the gradient, ``g̃ᵀ A g̃ / ‖g̃‖²`` with ``g̃ = S∇f``."""
        if len(self._batch_curvatures) == 1:
            return self._batch_curvatures[0]
        return _ratio(_dot(self.gradient, self.matvec(self.gradient)), self.gradient)

    @functools.cached_property
    def batch_sharpness(self):
        """Mean over the micro-batches b of ``g̃_bᵀ A_b g̃_b / ‖g̃_b‖²``, with ``g̃_b = S∇f_b``."""
        self._hessian  # noqa: B018 (visits the micro-batches)
        return sum(self._batch_curvatures) / len(self._batch_curvatures)

    def visit(self, gradient, product):
        """Take note of one micro-batch: its gradient and its Hessian as a function."""
        gradient = self._scale * gradient
        curvature = _dot(gradient, self._scale * product(self._scale * gradient))
        self._batch_curvatures.append(_ratio(curvature, gradient))

    @functools.cached_property
    def update_curvature(self):
        """Curvature along the last update, ``ũᵀ A ũ / ‖ũ‖²`` with ``ũ = u/S``."""
        measurement = self._measurement
        return _ratio(measurement.along_update, measurement.update / self._scale)

    @functools.cached_property
    def trace(self):
        """The trace, a `TraceEstimate`."""
        pairs = self.eigenpairs
        known = pairs.eigenvectors + pairs.guard_vectors
        values = pairs.ritz_values[: len(known)].copy()
        if len(known) > len(pairs.eigenvectors):
            values[-1] = pairs.ritz_values[-1]  # the last guard vector is the lowest
        return hutch_plus_plus(self.matvec, known, values, _TRACE_PROBES, self._seed)

    @functools.cached_property
    def spectral_density(self):
        """The distribution of the eigenvalues, a `SpectralDensity`."""
        return lanczos_quadrature(
            self.matvec, self.gradient, _DENSITY_PROBES, _DENSITY_STEPS, self._seed
        )


def _dot(first, second):
    return float(tf.tensordot(first, second, 1))


def _ratio(value, vector):
    """``value / ‖v‖²``; NaN along the zero vector, which has no direction."""
    norm_squared = _dot(vector, vector)
    return value / norm_squared if norm_squared else math.nan
