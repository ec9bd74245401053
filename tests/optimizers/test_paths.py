"""The update itself: P and momentum as reported, Keras's own optimizers, NumPy."""

import keras
import numpy as np
import pytest

import keras_aeos
from keras_aeos.optimizers import dynamics
from tests.cases import flat
from tests.optimizers.cases import (
    APPROXIMATE,
    CUSTOM_OPTIMIZERS,
    DECAY,
    KERAS_OPTIMIZERS,
    OPTIMIZERS,
    RATE,
    SCHEDULED_MOMENTUM,
    schedule,
)
from tests.optimizers.paths import final, random_path, scheduled_rate

# Float64, but for a few sums taken in another order; Keras rounds some coefficients to float32.
RTOL, KERAS_RTOL = 1e-10, 1e-6
IDENTITY = OPTIMIZERS | SCHEDULED_MOMENTUM


@pytest.mark.parametrize("decay", [None, DECAY])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", IDENTITY)
def test_update_is_the_momentum_divided_by_the_preconditioner(name, scheduled, decay):
    """``x⁺ = (1 - ηw) x - η P⁻¹ m̃``, with the buffer kept here."""
    case = IDENTITY[name]
    if decay is None and "adamw" in name:
        decay = 0.004
    optimizer = case.make(schedule(RATE) if scheduled else RATE, weight_decay=decay)
    buffer = 0.0
    for update, (parameters, gradients) in enumerate(random_path(optimizer)):
        described = dynamics.describe(optimizer)
        momentum, rate = described.momentum, described.learning_rate
        # Keras keeps the learning rate in float32.
        assert rate == pytest.approx(scheduled_rate(update) if scheduled else RATE, rel=1e-6)
        assert described.weight_decay == (decay or 0.0)
        diagonal = flat(keras_aeos.preconditioner(optimizer))
        given = flat(gradients[-1])
        if case.buffer != "gradients":
            given = given / diagonal
        if case.buffer == "steps":
            given = rate * given
        buffer = momentum.beta * buffer + momentum.gradient_weight * given
        step = momentum.buffer_share * buffer + momentum.gradient_share * given
        if case.buffer == "gradients":
            step = step / diagonal
        if case.buffer != "steps":
            step = rate * step
        before = flat(parameters[-2])
        assert rate is not None
        assert described.weight_decay is not None
        expected = before - rate * described.weight_decay * before - step
        rtol = RTOL if name in CUSTOM_OPTIMIZERS else KERAS_RTOL
        np.testing.assert_allclose(flat(parameters[-1]), expected, rtol=rtol, atol=rtol)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "ScheduleFreeAdamW"), reason="this Keras has no ScheduleFreeAdamW"
)
def test_update_of_schedule_free_adamw_is_its_averaging_with_the_preconditioner():
    optimizer = keras.optimizers.ScheduleFreeAdamW(
        RATE, warmup_steps=8, epsilon=1e-2, weight_decay=DECAY
    )
    z = None
    for parameters, gradients in random_path(optimizer):
        described = dynamics.describe(optimizer)
        beta, c = described.momentum.beta, described.momentum.average_weight
        y = flat(parameters[-2])
        z = y if z is None else z
        assert described.learning_rate is not None
        assert described.weight_decay is not None
        y = (1 - described.learning_rate * described.weight_decay) * y
        x = (y - (1 - beta) * z) / beta
        z = z - described.learning_rate * flat(gradients[-1]) / flat(
            keras_aeos.preconditioner(optimizer)
        )
        x = (1 - c) * x + c * z
        expected = (1 - beta) * z + beta * x
        # The warm-up and the averaging weight are float32 in places.
        np.testing.assert_allclose(flat(parameters[-1]), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"beta": 0.3, "l2_regularization_strength": 0.2}])
def test_update_of_ftrl_is_the_gradient_divided_by_the_preconditioner(settings):
    """From the second update on: the first one starts from zero."""
    optimizer = keras.optimizers.Ftrl(RATE, **settings)
    for update, (parameters, gradients) in enumerate(random_path(optimizer)):
        described = dynamics.describe(optimizer)
        assert bool(described.approximation) is (update == 0)
        if update > 0:
            step = described.learning_rate * flat(gradients[-1])
            expected = flat(parameters[-2]) - step / flat(keras_aeos.preconditioner(optimizer))
            np.testing.assert_allclose(flat(parameters[-1]), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_preconditioner_says_so_and_predicts_the_size_of_the_step(name):
    optimizer = APPROXIMATE[name].make(RATE)
    *_, (parameters, gradients) = random_path(optimizer)
    described = dynamics.describe(optimizer)
    assert type(optimizer).__name__ in described.approximation
    made = flat(parameters[-2]) - flat(parameters[-1])
    diagonal = flat(keras_aeos.preconditioner(optimizer))
    predicted = described.learning_rate * flat(gradients[-1]) / diagonal
    ratio = made / predicted
    # Clipping alone takes a random gradient's step down by up to a third.
    assert ratio.min() > 0.6
    assert ratio.max() < 1.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_threshold(name):
    case = OPTIMIZERS[name]
    optimizer = case.make(RATE, weight_decay=0.0)
    assert keras_aeos.stability_threshold(optimizer) == pytest.approx(
        case.threshold / RATE, rel=1e-6
    )


def test_threshold_of_keras_nadam_tends_to_that_of_nadam():
    optimizer = keras.optimizers.Nadam(RATE)
    first = keras_aeos.stability_threshold(optimizer)
    optimizer.iterations.assign(10_000)
    last = keras_aeos.stability_threshold(optimizer)
    assert last == pytest.approx(38.0 / 2.8 / RATE, rel=1e-6)
    assert first < last / 2


@pytest.mark.parametrize(
    "name", [name for name, case in CUSTOM_OPTIMIZERS.items() if case.twin is not None]
)
def test_path_agrees_with_the_keras_optimizer_of_the_same_mathematics(name):
    case = CUSTOM_OPTIMIZERS[name]
    twin = (KERAS_OPTIMIZERS | APPROXIMATE)[str(case.twin)]
    # 1 - 0.999ᵗ with 0.999 in float32 is off by 1e-5. Keras's Adafactor never steps further than
    # 1/√t, which this stays below.
    np.testing.assert_allclose(
        flat(final(case.make(RATE))), flat(final(twin.make(RATE))), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", CUSTOM_OPTIMIZERS)
def test_path_agrees_with_numpy(name):
    case = CUSTOM_OPTIMIZERS[name]
    *_, (parameters, gradients) = random_path(case.make(RATE))
    for start, path, end in zip(
        parameters[0], zip(*gradients, strict=True), parameters[-1], strict=True
    ):
        # Keras keeps the learning rate in float32; 20 steps of at most a few times 0.05.
        np.testing.assert_allclose(end, case.in_numpy(start, path), rtol=1e-6, atol=1e-7)
