import numpy as np
import pytest

from keras_aeos import stability
from keras_aeos.stability import Momentum

RATE, BETA = 0.03, 0.9
# kind, ema: closed form of Table 1
TABLE_1 = {
    ("none", False): 2 / RATE,
    ("heavy_ball", False): (2 + 2 * BETA) / RATE,
    ("heavy_ball", True): (2 + 2 * BETA) / ((1 - BETA) * RATE),
    ("nesterov", False): (2 + 2 * BETA) / ((1 + 2 * BETA) * RATE),
    ("nesterov", True): (2 + 2 * BETA) / ((1 - BETA) * (1 + 2 * BETA) * RATE),
}
CASES = [
    (Momentum(kind, 0.0 if kind == "none" else beta, ema), rate, decay)
    for kind, ema in TABLE_1
    for beta in (0.3, 0.9)
    for rate in (1e-3, 0.5)
    for decay in (0.0, 0.1)
]


def descend(momentum, rate, eigenvalue, decay, num_steps):
    """Run the optimizer on ``λx²/2`` from x = 1, as its update is written down."""
    beta, weight = momentum.beta, (1 - momentum.beta) if momentum.ema else 1.0
    x, m, path = 1.0, 0.0, [1.0]
    for _ in range(num_steps):
        gradient = eigenvalue * x
        m = beta * m + weight * gradient
        step = beta * m + weight * gradient if momentum.kind == "nesterov" else m
        x = (1 - rate * decay) * x - rate * step
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize(("kind", "ema"), TABLE_1)
def test_threshold_is_that_of_table_1(kind, ema):
    momentum = Momentum(kind, 0.0 if kind == "none" else BETA, ema)
    assert stability.stability_threshold(momentum, RATE) == pytest.approx(
        TABLE_1[kind, ema], rel=1e-12
    )


def test_threshold_of_adamw_is_that_of_the_decayed_recurrence():
    rate, beta, decay = 0.1, 0.9, 0.5
    expected = (1 + beta) * (2 - rate * decay) / ((1 - beta) * rate)
    momentum = Momentum("heavy_ball", beta, ema=True)
    assert stability.stability_threshold(momentum, rate, decay) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize(("momentum", "rate", "decay"), CASES)
def test_recurrence_reproduces_the_update(momentum, rate, decay):
    eigenvalue = 1.1 / rate
    path = descend(momentum, rate, eigenvalue, decay, 20)
    a, b = stability.recurrence(momentum, rate, eigenvalue, decay)
    np.testing.assert_allclose(path[2:], a * path[1:-1] + b * path[:-2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("momentum", "rate", "decay"), CASES)
def test_threshold_is_where_a_root_of_the_polynomial_leaves_the_unit_circle(momentum, rate, decay):
    def largest_root(eigenvalue):
        a, b = stability.recurrence(momentum, rate, eigenvalue, decay)
        return np.abs(np.roots([1.0, -a, -b])).max()

    low, high = 1e-6 / rate, 1e4 / rate
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if largest_root(middle) <= 1.0 else (low, middle)
    assert stability.stability_threshold(momentum, rate, decay) == pytest.approx(low, rel=1e-10)


@pytest.mark.parametrize(("momentum", "rate", "decay"), CASES)
def test_quadratic_converges_below_the_threshold_and_diverges_above(momentum, rate, decay):
    threshold = stability.stability_threshold(momentum, rate, decay)
    below = descend(momentum, rate, 0.98 * threshold, decay, 3000)
    above = descend(momentum, rate, 1.02 * threshold, decay, 3000)
    assert np.abs(below[-10:]).max() < 0.1
    assert np.nanmax(np.abs(above)) > 10.0


@pytest.mark.parametrize("fraction", [0.2, 0.9, 1.1])
def test_growth_factor_is_the_rate_of_the_iterates(fraction):
    momentum = Momentum("heavy_ball", 0.9, ema=True)
    eigenvalue = fraction * stability.stability_threshold(momentum, 1.0)
    path = np.abs(descend(momentum, 1.0, eigenvalue, 0.0, 400))
    rate = (path[300:400].max() / path[200:300].max()) ** (1 / 100)
    assert stability.growth_factor(momentum, 1.0, eigenvalue) == pytest.approx(rate, rel=5e-3)


def test_limits():
    assert stability.stability_threshold(Momentum(), 0.0) == np.inf
    assert stability.stability_threshold(Momentum(), 1.0, weight_decay=3.0) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Momentum("heavyball"), "Received: kind='heavyball'"),
        (lambda: Momentum("heavy_ball", 1.0), "Received: beta=1.0"),
        (lambda: stability.stability_threshold(Momentum(), -1.0), "learning_rate=-1.0"),
        (lambda: stability.stability_threshold(Momentum(), float("nan")), "learning_rate=nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
