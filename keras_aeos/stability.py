"""Stability of momentum methods on a quadratic: recurrences, growth factors and thresholds.

Along an eigenvector of the preconditioned Hessian ``P⁻¹H`` with eigenvalue ``λ``, an optimizer
with a fixed P moves the coordinate ``x`` by a linear recurrence

    x_{t+1} = A x_t + B x_{t-1},        A = a₀ + a₁ λ,   B = b₀ + b₁ λ,

so it is stable exactly when both roots of ``z² - A z - B`` lie inside the unit circle. The smallest
positive ``λ`` at which a root leaves it is the *stability threshold* λ*.

A `Momentum` says how an optimizer turns gradients into steps; with a learning rate and a weight
decay it becomes a `Recurrence`, which has the rest. Plain NumPy: nothing here knows TensorFlow.

References:
    Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022: Table 1,
    Proposition 1 and Appendix A.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """A recurrence ``x_{t+1} = A x_t + B x_{t-1}`` with coefficients linear in the eigenvalue λ.

    Attributes:
        a: Pair ``(a₀, a₁)`` of ``A = a₀ + a₁ λ``.
        b: Pair ``(b₀, b₁)`` of ``B = b₀ + b₁ λ``.

    Example:
        Gradient descent with learning rate 1/2, ``x⁺ = (1 - λ/2) x``:

        >>> Recurrence(a=(1.0, -0.5), b=(0.0, 0.0)).stability_threshold()
        4.0
    """

    a: tuple[float, float]
    b: tuple[float, float]

    def coefficients(self, eigenvalue):
        """``(A, B)`` at an eigenvalue λ, a number or an array; each of its shape."""
        return self.a[0] + self.a[1] * eigenvalue, self.b[0] + self.b[1] * eigenvalue

    def characteristic_polynomial(self, eigenvalue):
        """Coefficients ``(1, -A, -B)`` of ``z² - A z - B``, highest power first, along axis -1."""
        a, b = self.coefficients(np.asarray(eigenvalue, np.float64))
        return np.stack([np.ones_like(a), -a, -b], axis=-1)

    def growth_factor(self, eigenvalue):
        """Asymptotic growth factor ρ(λ): magnitude of the polynomial's largest root.

        The coordinate shrinks like ``ρᵗ`` for ρ < 1 and diverges for ρ > 1.

        Args:
            eigenvalue: Eigenvalue λ of ``P⁻¹H``; a number or an array.

        Returns:
            ρ(λ) as float64, of the shape of `eigenvalue`.

        References:
            Cohen et al. 2022, Figure 14.
        """
        return _largest_root(*self.coefficients(np.asarray(eigenvalue, np.float64)))

    def stability_threshold(self):
        """Largest stable eigenvalue λ* in closed form.

        Both roots lie inside the unit circle exactly when ``|A| < 1 - B`` and ``B > -1``. Starting
        from λ = 0, where these hold, λ* is the first point at which one of ``1 + A - B = 0`` (a
        root at -1), ``1 - A - B = 0`` (a root at 1) or ``B = -1`` (a complex pair on the circle)
        is met; all are linear in λ.

        Returns:
            λ* as a float; infinity if no positive eigenvalue is unstable, 0 if none is stable.
        """
        (a0, a1), (b0, b1) = self.a, self.b
        if not (abs(a0) <= 1.0 - b0 and b0 > -1.0):
            return 0.0
        bounds = [(1.0 + a0 - b0, a1 - b1), (1.0 - a0 - b0, -a1 - b1), (1.0 + b0, b1)]
        return min((-constant / slope for constant, slope in bounds if slope < 0.0), default=np.inf)


@dataclasses.dataclass(frozen=True)
class Momentum:
    """How gradients g become the term m̃ of the step ``x⁺ = (1 - ηw) x - η P⁻¹ m̃``.

    A buffer m takes the gradients up, and a step goes along the buffer, the gradient, or both:

        m⁺ = βm + γg,        m̃ = c m⁺ + d g,

    The named kinds are `Momentum.none`, `Momentum.heavy_ball` and `Momentum.nesterov`.

    Attributes:
        beta: Momentum coefficient β in [0, 1).
        gradient_weight: γ, the weight of a gradient in the buffer: 1 for the standard form, 1 - β
            for an exponential moving average.
        buffer_share: c, the share of the buffer in the step.
        gradient_share: d, the share of the gradient itself in the step.

    Raises:
        ValueError: If `beta` lies outside [0, 1).
    """

    beta: float = 0.0
    gradient_weight: float = 1.0
    buffer_share: float = 1.0
    gradient_share: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(
                "The momentum coefficient must lie in [0, 1), or no eigenvalue is stable. "
                f"Received: beta={self.beta}"
            )

    @classmethod
    def none(cls):
        """Plain gradient descent: ``m̃ = g``."""
        return cls()

    @classmethod
    def heavy_ball(cls, beta, ema=False):
        """Heavy ball: ``m⁺ = βm + g``, or ``βm + (1-β)g`` if `ema`; ``m̃ = m⁺``."""
        return cls(beta, _gradient_weight(beta, ema))

    @classmethod
    def nesterov(cls, beta, ema=False):
        """Nesterov: the buffer of heavy ball, looked ahead: ``m̃ = βm⁺ + g``, EMA ``+ (1-β)g``."""
        weight = _gradient_weight(beta, ema)
        return cls(beta, weight, buffer_share=beta, gradient_share=weight)

    def recurrence(self, learning_rate, weight_decay=0.0):
        """The recurrence on a quadratic.

        ``A = 1 - ηw + β - η(cγ + d) λ`` and ``B = -β(1 - ηw - ηd λ)``. Without weight decay its
        threshold is

        ==========================  =======================
        momentum                    λ*
        ==========================  =======================
        none                        2/η
        standard heavy ball         (2+2β)/η
        EMA heavy ball              (2+2β)/((1-β)η)
        standard Nesterov           (2+2β)/((1+2β)η)
        EMA Nesterov                (2+2β)/((1-β)(1+2β)η)
        ==========================  =======================

        and with it, for an EMA heavy ball, ``(1+β)(2-ηw)/((1-β)η)``.

        Args:
            learning_rate: Step size η, in inverse units of the eigenvalue.
            weight_decay: Decoupled weight decay w: a step first shrinks x to ``(1 - ηw) x``.

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

    With the gradient at y and the averaging weight c of the step:

        y' = (1 - ηw) y,   x' = (y' - (1-β) z) / β,
        z⁺ = z - η P⁻¹ g,   x⁺ = (1-c) x' + c z⁺,   y⁺ = (1-β) z⁺ + β x⁺.

    Attributes:
        beta: Share β of the average in the trained point, in (0, 1].
        average_weight: c in (0, 1]; 1/t at update t of Keras's optimizer.

    References:
        Defazio et al., "The Road Less Scheduled", 2024 (beyond Cohen et al. 2022).
    """

    beta: float
    average_weight: float

    def recurrence(self, learning_rate, weight_decay=0.0):
        """The recurrence of y with c held fixed: trace and determinant of the map of (z, x).

        ``A = 1 + (1-c)(1-ηw) - η(1-β+cβ) λ`` and ``B = -(1-c)(1 - ηw - η(1-β) λ)``.

        Args:
            learning_rate: Step size η.
            weight_decay: Decoupled weight decay w of y.

        Returns:
            A `Recurrence`.

        Raises:
            ValueError: If `learning_rate` is negative or not a number.

        Example:
            Late in training the average stands still, and z alone sees ``1-β`` of its own step:

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


def first_unstable_eigenvalue(coefficients, upper, num_points=4096):
    """Stability threshold of any recurrence, found from the roots of its polynomial.

    Looks for the first λ in (0, upper] at which a root of ``z² - A z - B`` leaves the unit circle,
    on a grid, and bisects between its two grid points to the last bit.

    Args:
        coefficients: Function of an eigenvalue λ that returns ``(A, B)``, such as
            `Recurrence.coefficients`; need not be linear.
        upper: Largest eigenvalue to look at.
        num_points: Number of grid points; an unstable stretch shorter than their distance,
            ``upper / num_points``, may go unseen.

    Returns:
        λ* as a float; infinity if every λ up to `upper` is stable.

    Raises:
        ValueError: If `upper` is not a positive number.

    Example:
        >>> round(first_unstable_eigenvalue(lambda x: (1 - x**2, 0.0), upper=10.0), 9)
        1.414213562
    """
    if not 0.0 < upper < math.inf:
        raise ValueError(f"`upper` must be a finite number above 0. Received: upper={upper}")
    # A root that stays on the circle, as that of λ = 0 does, comes out as 1 give or take rounding.
    tolerance = 1e-12

    def unstable(eigenvalue):
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


def _largest_root(a, b):
    root = np.emath.sqrt(a * a + 4.0 * b)
    return np.maximum(np.abs(a + root), np.abs(a - root)) / 2.0


def _gradient_weight(beta, ema):
    return 1.0 - beta if ema else 1.0


def _check_learning_rate(learning_rate):
    if not learning_rate >= 0.0:
        raise ValueError(
            f"The learning rate must be a number >= 0. Received: learning_rate={learning_rate}"
        )
