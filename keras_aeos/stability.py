"""Stability of momentum methods on a quadratic: recurrences, growth factors and thresholds.

Along an eigenvector of the preconditioned Hessian ``P⁻¹H`` with eigenvalue ``λ``, gradient descent
with momentum and decoupled weight decay moves the coordinate ``x`` by the linear recurrence

    x_{t+1} = A x_t + B x_{t-1},        A = a₀ + a₁ λ,   B = b₀ + b₁ λ,

so it is stable exactly when both roots of ``z² - A z - B`` lie inside the unit circle. The smallest
positive ``λ`` at which a root leaves it is the *stability threshold*.

Plain NumPy: nothing here knows TensorFlow.

References:
    Cohen et al., "Adaptive Gradient Methods at the Edge of Stability", 2022: Table 1,
    Proposition 1 and Appendix A.
"""

import dataclasses
import math

import numpy as np

_KINDS = ("none", "heavy_ball", "nesterov")


@dataclasses.dataclass(frozen=True)
class Momentum:
    """How an optimizer turns preconditioned gradients into steps.

    Attributes:
        kind: ``"none"`` (plain gradient descent), ``"heavy_ball"`` or ``"nesterov"``.
        beta: Momentum coefficient in [0, 1); 0 for ``"none"``.
        ema: True if the momentum buffer is an exponential moving average,
            ``m⁺ = βm + (1-β)g`` (Adam); False for the standard form ``m⁺ = βm + g`` (SGD).

    Raises:
        ValueError: If `kind` is unknown or `beta` lies outside [0, 1).
    """

    kind: str = "none"
    beta: float = 0.0
    ema: bool = False

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise ValueError(
                f"Unknown kind of momentum; expected one of {_KINDS}. Received: kind={self.kind!r}"
            )
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(
                "The momentum coefficient must lie in [0, 1), or no eigenvalue is stable. "
                f"Received: beta={self.beta}"
            )


def recurrence(momentum, learning_rate, eigenvalue, weight_decay=0.0):
    """Coefficients of the recurrence ``x_{t+1} = A x_t + B x_{t-1}``.

    With ``r = ηw`` the relative shrinkage of a step and ``s = η`` (or ``η(1-β)`` for an
    exponential moving average):

    - none: ``A = 1 - r - sλ``, ``B = 0``
    - heavy ball: ``A = 1 - r + β - sλ``, ``B = -β(1 - r)``
    - Nesterov: ``A = 1 - r + β - s(1+β)λ``, ``B = -β(1 - r - sλ)``

    Args:
        momentum: A `Momentum`.
        learning_rate: Step size η, positive.
        eigenvalue: Eigenvalue λ of ``P⁻¹H``; a number or an array.
        weight_decay: Decoupled weight decay w: a step first shrinks the parameters to
            ``(1 - ηw) x``.

    Returns:
        Tuple ``(A, B)`` of the shape of `eigenvalue`.

    Example:
        >>> recurrence(Momentum("heavy_ball", 0.5), 0.1, 10.0)
        (0.5, -0.5)

    References:
        Appendix A (weight decay: beyond the paper).
    """
    (a0, a1), (b0, b1) = _coefficients(momentum, learning_rate, weight_decay)
    return a0 + a1 * eigenvalue, b0 + b1 * eigenvalue


def growth_factor(momentum, learning_rate, eigenvalue, weight_decay=0.0):
    """Asymptotic growth factor: magnitude of the largest root of ``z² - A z - B``.

    The coordinate shrinks like ``ρᵗ`` for ρ < 1 and diverges for ρ > 1.

    Args:
        momentum: A `Momentum`.
        learning_rate: Step size η, positive.
        eigenvalue: Eigenvalue λ of ``P⁻¹H``; a number or an array.
        weight_decay: Decoupled weight decay w.

    Returns:
        ρ(λ) as float64, of the shape of `eigenvalue`.

    Example:
        >>> float(growth_factor(Momentum(), 0.5, 4.0))
        1.0

    References:
        Figure 14.
    """
    a, b = recurrence(momentum, learning_rate, np.asarray(eigenvalue, np.float64), weight_decay)
    root = np.emath.sqrt(a * a + 4.0 * b)
    return np.maximum(np.abs(a + root), np.abs(a - root)) / 2.0


def stability_threshold(momentum, learning_rate, weight_decay=0.0):
    """Largest stable eigenvalue λ* of ``P⁻¹H``.

    Both roots of ``z² - A z - B`` lie inside the unit circle exactly when ``|A| < 1 - B`` and
    ``B > -1``. Starting from λ = 0, where these hold, λ* is the first point at which one of
    ``1 + A - B = 0`` (a root at -1) or ``B = -1`` (a complex pair on the circle) is met; both are
    linear in λ. Without weight decay:

    ==========================  =======================
    momentum                    λ*
    ==========================  =======================
    none                        2/η
    standard heavy ball         (2+2β)/η
    EMA heavy ball              (2+2β)/((1-β)η)
    standard Nesterov           (2+2β)/((1+2β)η)
    EMA Nesterov                (2+2β)/((1-β)(1+2β)η)
    ==========================  =======================

    Args:
        momentum: A `Momentum`.
        learning_rate: Step size η, in inverse units of the eigenvalue.
        weight_decay: Decoupled weight decay w.

    Returns:
        λ* as a float; infinity if the learning rate is zero, 0 if no eigenvalue is stable
        (``ηw >= 2``).

    Raises:
        ValueError: If `learning_rate` is negative or not a number.

    Example:
        >>> round(stability_threshold(Momentum("heavy_ball", 0.9, ema=True), 1.0), 6)
        38.0

    References:
        Table 1, Proposition 1 and Lemma 1 (weight decay: beyond the paper).
    """
    if not learning_rate >= 0.0:
        raise ValueError(
            f"The learning rate must be a number >= 0. Received: learning_rate={learning_rate}"
        )
    if learning_rate == 0.0:
        return math.inf
    (a0, a1), (b0, b1) = _coefficients(momentum, learning_rate, weight_decay)
    if not (abs(a0) <= 1.0 - b0 and b0 > -1.0):
        return 0.0
    crossings = [(1.0 + a0 - b0, a1 - b1), (1.0 + b0, b1)]
    return min(-constant / slope for constant, slope in crossings if slope < 0.0)


def _coefficients(momentum, learning_rate, weight_decay):
    """``((a₀, a₁), (b₀, b₁))`` of the module's recurrence."""
    beta = momentum.beta
    shrink = 1.0 - learning_rate * weight_decay
    step = learning_rate * (1.0 - beta) if momentum.ema else learning_rate
    if momentum.kind == "nesterov":
        return (shrink + beta, -step * (1.0 + beta)), (-beta * shrink, beta * step)
    return (shrink + beta, -step), (-beta * shrink, 0.0)
