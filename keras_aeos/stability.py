"""Stability of momentum methods on a quadratic: recurrences, growth factors and thresholds.

Along an eigenvector of the preconditioned Hessian ``P⁻¹H`` with eigenvalue ``λ``, an optimizer
with a fixed P moves the coordinate ``x`` by a linear recurrence

    x_{t+1} = A x_t + B x_{t-1},        A = a₀ + a₁ λ,   B = b₀ + b₁ λ,

and is stable exactly when both roots of ``z² - A z - B`` lie inside the unit circle. The smallest
positive ``λ`` at which a root leaves the circle is the *stability threshold* λ*.

A `Momentum` states how an optimizer turns gradients into steps. Given a learning rate and a weight
decay it yields a `Recurrence`, which computes thresholds and growth factors. In mini-batches the
curvature is another one at each step; `Recurrence.mean_square_threshold` is the lower threshold
that then applies. This module uses NumPy alone, not TensorFlow.

References:
    Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022: Table 1,
    Proposition 1 and Appendix A.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np

# A number, or an array that is evaluated element by element.
Values = TypeVar("Values", float, np.ndarray)

# Relative size below which a coefficient, or the imaginary part of a root, is rounding.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """A recurrence ``x_{t+1} = A x_t + B x_{t-1}`` with coefficients linear in the eigenvalue λ.

    Attributes:
        a: Pair of floats ``(a₀, a₁)`` in ``A = a₀ + a₁ λ``.
        b: Pair of floats ``(b₀, b₁)`` in ``B = b₀ + b₁ λ``.

    Example:
        Gradient descent with learning rate 1/2, ``x⁺ = (1 - λ/2) x``:

        >>> Recurrence(a=(1.0, -0.5), b=(0.0, 0.0)).stability_threshold()
        4.0
    """

    a: tuple[float, float]
    b: tuple[float, float]

    def coefficients(self, eigenvalue: Values) -> tuple[Values, Values]:
        """Coefficients ``(A, B)`` at an eigenvalue λ.

        Args:
            eigenvalue: Float or array. Eigenvalue λ of ``P⁻¹H``.

        Returns:
            A and B, each of the shape of `eigenvalue`.
        """
        return self.a[0] + self.a[1] * eigenvalue, self.b[0] + self.b[1] * eigenvalue

    def characteristic_polynomial(self, eigenvalue: Values) -> np.ndarray:
        """Coefficients ``(1, -A, -B)`` of ``z² - A z - B``, highest power first.

        Args:
            eigenvalue: Float or array. Eigenvalue λ of ``P⁻¹H``.

        Returns:
            float64 array of the shape of `eigenvalue` with an axis of length 3 appended.
        """
        a, b = self.coefficients(np.asarray(eigenvalue, np.float64))
        return np.stack([np.ones_like(a), -a, -b], axis=-1)

    def growth_factor(self, eigenvalue: Values) -> Values:
        """Asymptotic growth factor ρ(λ), the magnitude of the largest characteristic root.

        The coordinate shrinks like ``ρᵗ`` for ρ < 1 and diverges for ρ > 1.

        Args:
            eigenvalue: Float or array. Eigenvalue λ of ``P⁻¹H``.

        Returns:
            ρ(λ) as float64, of the shape of `eigenvalue`.

        References:
            Cohen et al. 2022, Figure 14.
        """
        return _largest_root(*self.coefficients(np.asarray(eigenvalue, np.float64)))

    def stability_threshold(self) -> float:
        """Stability threshold λ* in closed form.

        Both roots lie inside the unit circle exactly when ``|A| < 1 - B`` and ``B > -1``. As λ
        grows from 0, λ* is the first point that satisfies one of three equations:
        ``1 + A - B = 0`` (a root at -1), ``1 - A - B = 0`` (a root at 1) or ``B = -1`` (a complex
        pair on the circle). All three are linear in λ.

        Returns:
            λ* as a float; infinity if every positive eigenvalue is stable, 0 if none is.
        """
        (a0, a1), (b0, b1) = self.a, self.b
        if not (abs(a0) <= 1.0 - b0 and b0 > -1.0):
            return 0.0
        bounds = [(1.0 + a0 - b0, a1 - b1), (1.0 - a0 - b0, -a1 - b1), (1.0 + b0, b1)]
        return min((-constant / slope for constant, slope in bounds if slope < 0.0), default=np.inf)

    def mean_square_threshold(self, noise: float) -> float:
        """Eigenvalue from which on ``E x²`` diverges if the curvature changes from step to step.

        In mini-batches each gradient is ``h x`` with an independent h of mean λ and variance
        ``σ²λ²``, where σ² is the relative noise. With ``ε = h - λ`` the recurrence becomes

            x_{t+1} = A x_t + B x_{t-1} + a₁ ε_t x_t + b₁ ε_{t-1} x_{t-1}.

        ``E x²`` is bounded exactly if the noise that one unit of ``x²`` makes adds less than one
        unit to it in the long run:

            σ²λ² ((a₁² + b₁²)(1 - B) + 2 a₁ b₁ A) < (1 + B)(1 - A - B)(1 + A - B).

        For a heavy ball without weight decay the threshold λ_σ is that of a harmonic sum,

            1/λ_σ = 1/λ* + σ²/κ*,     κ* = 2(1-β)/η, or 2/η as an EMA.

        Args:
            noise: Float, not negative. σ², the variance of h over λ²; 0 for full batches.

        Returns:
            λ_σ as a float, at most the `stability_threshold`, which it is without noise.

        Raises:
            ValueError: If `noise` is negative or not finite.

        Example:
            Of gradient descent, ``E h² / E h = (1 + σ²) λ`` must be less than 2/η:

            >>> Recurrence(a=(1.0, -0.5), b=(0.0, 0.0)).mean_square_threshold(noise=3.0)
            1.0

        References:
            Wu et al. 2018 (gradient descent); arXiv:2604.14108 (heavy ball).
        """
        if not 0.0 <= noise < math.inf:
            raise ValueError(f"`noise` is a variance, finite and 0 or larger. Received: {noise=}")
        without = self.stability_threshold()
        if not 0.0 < without < math.inf or not noise:
            return without
        # In units of the threshold without noise, above which nothing is stable.
        t = np.polynomial.Polynomial([0.0, 1.0])
        (a0, a1), (b0, b1) = self.a, self.b
        a1, b1 = a1 * without, b1 * without
        a, b = a0 + a1 * t, b0 + b1 * t
        at_zero = 1.0 - a0 - b0
        # Without weight decay a root is 1 at λ = 0, whatever the rounding.
        rest = (at_zero if abs(at_zero) > _ROUNDING else 0.0) - (a1 + b1) * t
        left = noise * t**2 * ((a1**2 + b1**2) * (1.0 - b) + 2.0 * a1 * b1 * a)
        surplus = (1.0 + b) * rest * (1.0 + a - b) - left
        # A leading coefficient of rounding size would only add a root far above 1.
        roots = surplus.trim(1e-14 * abs(surplus.coef).max()).roots()
        real = roots.real[(abs(roots.imag) <= _ROUNDING * abs(roots)) & (roots.real > 0.0)]
        return without * float(real.min(initial=1.0))


@dataclasses.dataclass(frozen=True)
class Momentum:
    """How gradients g become the term m̃ of the step ``x⁺ = (1 - ηw) x - η P⁻¹ m̃``.

    A buffer m accumulates the gradients. The step follows the buffer, the gradient, or both:

        m⁺ = βm + γg,        m̃ = c m⁺ + d g.

    The named kinds are `Momentum.none`, `Momentum.heavy_ball` and `Momentum.nesterov`.

    Attributes:
        beta: Float. Momentum coefficient β in [0, 1), 0 by default.
        gradient_weight: Float. Weight γ of a gradient in the buffer: 1 (default) for the standard
            form, 1 - β for an exponential moving average (EMA).
        buffer_share: Float. Share c of the buffer in the step, 1 by default.
        gradient_share: Float. Share d of the gradient itself in the step, 0 by default.

    Raises:
        ValueError: If `beta` lies outside [0, 1).
    """

    beta: float = 0.0
    gradient_weight: float = 1.0
    buffer_share: float = 1.0
    gradient_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(
                "The momentum coefficient must lie in [0, 1); from 1 on no eigenvalue is stable. "
                f"Received: beta={self.beta}"
            )

    @classmethod
    def none(cls) -> Self:
        """Plain gradient descent, ``m̃ = g``."""
        return cls()

    @classmethod
    def heavy_ball(cls, beta: float, ema: bool = False) -> Self:
        """Heavy ball: ``m⁺ = βm + g``, or ``m⁺ = βm + (1-β)g`` with `ema`; ``m̃ = m⁺``.

        Args:
            beta: Float. Momentum coefficient β in [0, 1).
            ema: Boolean. Whether the buffer is an exponential moving average; False by default.

        Returns:
            A `Momentum`.
        """
        return cls(beta, _gradient_weight(beta, ema))

    @classmethod
    def nesterov(cls, beta: float, ema: bool = False) -> Self:
        """Nesterov: ``m̃ = βm⁺ + g``, or ``m̃ = βm⁺ + (1-β)g`` with `ema`; m as in heavy ball.

        Args:
            beta: Float. Momentum coefficient β in [0, 1).
            ema: Boolean. Whether the buffer is an exponential moving average; False by default.

        Returns:
            A `Momentum`.
        """
        weight = _gradient_weight(beta, ema)
        return cls(beta, weight, buffer_share=beta, gradient_share=weight)

    def recurrence(self, learning_rate: float, weight_decay: float = 0.0) -> Recurrence:
        """Recurrence of this momentum on a quadratic.

        ``A = 1 - ηw + β - η(cγ + d) λ`` and ``B = -β(1 - ηw - ηd λ)``. Without weight decay the
        thresholds are

        ==========================  =======================
        momentum                    λ*
        ==========================  =======================
        none                        2/η
        standard heavy ball         (2+2β)/η
        EMA heavy ball              (2+2β)/((1-β)η)
        standard Nesterov           (2+2β)/((1+2β)η)
        EMA Nesterov                (2+2β)/((1-β)(1+2β)η)
        ==========================  =======================

        With weight decay the threshold of an EMA heavy ball is ``(1+β)(2-ηw)/((1-β)η)``.

        Args:
            learning_rate: Float. Step size η, in inverse units of the eigenvalue.
            weight_decay: Float. Decoupled weight decay w, 0 by default. Each step first shrinks x
                to ``(1 - ηw) x``.

        Returns:
            A `Recurrence`.

        Raises:
            ValueError: If `learning_rate` is negative or not a number.

        Example:
            >>> momentum = Momentum.heavy_ball(0.9, ema=True)
            >>> round(momentum.recurrence(learning_rate=1.0).stability_threshold(), 6)
            38.0

        References:
            Cohen et al. 2022, Table 1, Proposition 1, Lemma 1 (weight decay: beyond the paper).
        """
        _check_learning_rate(learning_rate)
        kept = 1.0 - learning_rate * weight_decay
        step = self.buffer_share * self.gradient_weight + self.gradient_share
        return Recurrence(
            a=(kept + self.beta, -learning_rate * step),
            b=(-self.beta * kept, self.beta * learning_rate * self.gradient_share),
        )


@dataclasses.dataclass(frozen=True)
class ScheduleFree:
    """Schedule-free averaging, in which the trained point y lies between z and its average x.

    With the gradient g at y and the step's averaging weight c,

        y' = (1 - ηw) y,   x' = (y' - (1-β) z) / β,
        z⁺ = z - η P⁻¹ g,   x⁺ = (1-c) x' + c z⁺,   y⁺ = (1-β) z⁺ + β x⁺.

    Attributes:
        beta: Float. Share β of the average in the trained point, in (0, 1].
        average_weight: Float. Weight c in (0, 1]; Keras's optimizer uses 1/t at update t.

    References:
        Defazio et al., "The Road Less Scheduled", 2024 (beyond Cohen et al. 2022).
    """

    beta: float
    average_weight: float

    def recurrence(self, learning_rate: float, weight_decay: float = 0.0) -> Recurrence:
        """Recurrence of y at a fixed c, from the trace and determinant of the map of (z, x).

        ``A = 1 + (1-c)(1-ηw) - η(1-β+cβ) λ`` and ``B = -(1-c)(1 - ηw - η(1-β) λ)``.

        Args:
            learning_rate: Float. Step size η.
            weight_decay: Float. Decoupled weight decay w of y, 0 by default.

        Returns:
            A `Recurrence`.

        Raises:
            ValueError: If `learning_rate` is negative or not a number.

        Example:
            Late in training the average hardly moves, so y moves by ``1-β`` of the step of z:

            >>> recurrence = ScheduleFree(beta=0.9, average_weight=1e-9).recurrence(1.0)
            >>> round(recurrence.stability_threshold(), 3)
            20.0
        """
        _check_learning_rate(learning_rate)
        stay, kept = 1.0 - self.average_weight, 1.0 - learning_rate * weight_decay
        direct = learning_rate * (1.0 - self.beta)
        return Recurrence(
            a=(1.0 + stay * kept, -direct - learning_rate * self.average_weight * self.beta),
            b=(-stay * kept, stay * direct),
        )


def first_unstable_eigenvalue(
    coefficients: Callable[[float], tuple[float, float]],
    upper: float,
    num_points: int = 4096,
) -> float:
    """Stability threshold of any recurrence, from the roots of its characteristic polynomial.

    The function searches a grid on (0, upper] for the first λ at which a root of ``z² - A z - B``
    lies outside the unit circle. It then bisects the interval below this grid point to the last
    bit.

    Args:
        coefficients: Callable that takes an eigenvalue λ and returns ``(A, B)``, such as
            `Recurrence.coefficients`. It need not be linear in λ.
        upper: Float. End of the searched interval.
        num_points: Integer. Number of grid points, 4,096 by default. The search can miss an
            unstable interval shorter than the grid spacing ``upper / num_points``.

    Returns:
        λ* as a float; infinity if every λ up to `upper` is stable.

    Raises:
        ValueError: If `upper` is not a positive number.

    Example:
        >>> round(first_unstable_eigenvalue(lambda x: (1 - x**2, 0.0), upper=10.0), 9)
        1.414213562
    """
    if not 0.0 < upper < math.inf:
        raise ValueError(f"`upper` must be positive and finite. Received: upper={upper}")
    # A root on the circle, such as the one at λ = 0, is computed as 1 up to rounding.
    tolerance = 1e-12

    def unstable(eigenvalue: float) -> bool:
        return bool(_largest_root(*coefficients(eigenvalue)) > 1.0 + tolerance)

    low = 0.0
    for high in upper * np.arange(1, num_points + 1) / num_points:
        if unstable(high):
            break
        low = high
    else:
        return math.inf
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (low, middle) if unstable(middle) else (middle, high)
    return float(low)


def _largest_root(a: Any, b: Any) -> Any:
    """Magnitude of the largest root of ``z² - A z - B``, for numbers or arrays."""
    root = np.emath.sqrt(a * a + 4.0 * b)
    return np.maximum(np.abs(a + root), np.abs(a - root)) / 2.0


def _gradient_weight(beta: float, ema: bool) -> float:
    return 1.0 - beta if ema else 1.0


def _check_learning_rate(learning_rate: float) -> None:
    if not learning_rate >= 0.0:
        raise ValueError(
            "The learning rate must be a non-negative number. "
            f"Received: learning_rate={learning_rate}"
        )
