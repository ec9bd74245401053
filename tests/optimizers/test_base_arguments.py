"""What Keras does around the update: clipping, constraints, averages, decay of some variables."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
import keras_aeos.optimizers as ours
from keras_aeos.optimizers import base_arguments, dynamics
from tests.cases import flat
from tests.optimizers.cases import OPTIMIZERS, RATE, schedule
from tests.optimizers.paths import random_path

SGD = keras.optimizers.SGD


def apply(optimizer, values=((1.0, 2.0), (3.0,)), num_updates=2, **variable_options):
    """Make updates with unit gradients of variables called "kernel", "bias", ...; returns them."""
    names = ("kernel", "bias")
    variables = [
        keras.Variable(np.array(v), dtype="float64", name=n, **variable_options)
        for v, n in zip(values, names, strict=False)
    ]
    for _ in range(num_updates):
        optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)
    return variables


class OwnApply(keras.optimizers.SGD):
    def apply(self, grads, trainable_variables=None):
        super().apply([g / 2.0 for g in grads], trainable_variables)


class OwnClipping(ours.HeavyBall):
    def _clip_gradients(self, grads):
        return [tf.sign(g) for g in grads]


def _with_own_attribute(**settings):
    optimizer = SGD(RATE)
    optimizer.apply_gradients = lambda pairs: None
    return optimizer


# What an optimizer is given: the words that name the difference.
NAMED = {
    "clipnorm": (lambda: SGD(RATE, clipnorm=0.5), r"clipping \(clipnorm=0\.5\)"),
    "clipvalue": (lambda: ours.Adam(RATE, clipvalue=2.0), r"clipping \(clipvalue=2\)"),
    "global_clipnorm": (
        lambda: keras.optimizers.AdamW(RATE, global_clipnorm=1.0),
        r"clipping \(global_clipnorm=1\)",
    ),
    "scaled and clipped": (
        lambda: keras.optimizers.LossScaleOptimizer(SGD(RATE, clipnorm=0.5)),
        "clipnorm",
    ),
    "average, sometimes": (
        lambda: SGD(RATE, use_ema=True, ema_overwrite_frequency=3),
        "after every 3 updates",
    ),
    "average in Lamb": (
        lambda: keras.optimizers.Lamb(RATE, use_ema=True, ema_overwrite_frequency=1),
        "moving average after each update",
    ),
    "average in Ftrl": (
        lambda: keras.optimizers.Ftrl(RATE, use_ema=True, ema_overwrite_frequency=1),
        "moving average after each update",
    ),
    "rate by a callable": (lambda: SGD(lambda: RATE), "callable `learning_rate`"),
    "own apply": (lambda: OwnApply(RATE), "OwnApply overrides `apply`"),
    "own clipping": (lambda: OwnClipping(RATE), "OwnClipping overrides `_clip_gradients`"),
    "own attribute": (_with_own_attribute, "overrides `apply_gradients`"),
}
EXACT = {
    "nothing": lambda: SGD(RATE),
    "schedule": lambda: SGD(schedule(RATE)),
    "no clipping": lambda: SGD(RATE, clipnorm=0.0),
    "average aside": lambda: SGD(RATE, use_ema=True),
    "average after each update": lambda: SGD(RATE, use_ema=True, ema_overwrite_frequency=1),
    "scale of the loss": lambda: SGD(RATE, loss_scale_factor=8.0),
    "accumulation": lambda: SGD(RATE, gradient_accumulation_steps=2),
    "decay": lambda: SGD(RATE, weight_decay=0.1),
    "frozen": lambda: ours.FrozenAdam(RATE, [np.ones(2), np.ones(1)]),
}


@pytest.mark.parametrize(("make", "words"), NAMED.values(), ids=NAMED)
def test_difference_between_step_and_update_is_named(make, words):
    optimizer = make()
    apply(optimizer)
    assert re.search(words, dynamics.describe(optimizer).approximation)


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_arguments_that_leave_the_update_alone_are_exact(make):
    optimizer = make()
    apply(optimizer)
    assert dynamics.describe(optimizer).approximation == ""


def test_constraints_are_named_by_their_variables():
    optimizer = SGD(RATE)
    variable = keras.Variable(np.ones(3), name="kernel")
    variable.constraint = keras.constraints.UnitNorm()
    optimizer.build([variable, keras.Variable(np.ones(2), name="bias")])
    assert "act: kernel." in dynamics.describe(optimizer).approximation


@pytest.mark.parametrize("decay", [None, 0.2])
@pytest.mark.parametrize("name", ["keras_sgd_momentum", "keras_sgd_nesterov", "adam", "heavy_ball"])
def test_overwriting_after_each_update_shrinks_the_step(name, decay):
    """``x⁺ = (1 - ηw') x - η P⁻¹ m̃'`` from the second update on, the buffer kept here."""
    case = OPTIMIZERS[name]
    optimizer = case.make(
        RATE, weight_decay=decay, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=1
    )
    buffer = 0.0
    for parameters, gradients in random_path(optimizer, num_steps=6):
        described = dynamics.describe(optimizer)
        assert described.approximation == ""
        momentum, rate = described.momentum, described.learning_rate
        assert rate is not None
        assert described.weight_decay is not None
        buffer = momentum.beta * buffer + momentum.gradient_weight * flat(gradients[-1])
        step = momentum.buffer_share * buffer + momentum.gradient_share * flat(gradients[-1])
        step = rate * step / flat(keras_aeos.preconditioner(optimizer))
        expected = (1 - rate * described.weight_decay) * flat(parameters[-2]) - step
        # Keras keeps the learning rate in float32.
        np.testing.assert_allclose(flat(parameters[-1]), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("fraction", "stable"), [(0.98, True), (1.02, False)])
def test_threshold_of_overwriting_after_each_update(fraction, stable):
    """Gradient descent on ``λx²/2`` with λ beside the threshold that is reported."""
    optimizer = SGD(RATE, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=1)
    threshold = keras_aeos.stability_threshold(optimizer)
    assert threshold == pytest.approx(20 / RATE, rel=1e-6)
    end = abs(descend(optimizer, fraction * threshold))
    assert end < 1e-2 if stable else end > 1e2


def descend(optimizer, eigenvalue, num_steps=400):
    variable = keras.Variable(1.0, dtype="float64")
    optimizer.build([variable])

    @tf.function
    def update():
        for _ in tf.range(num_steps):
            optimizer.apply([eigenvalue * variable.value], [variable])

    update()
    return float(variable.numpy())


# ---------------------------------------------------------------------- decay of some variables


@pytest.mark.parametrize("names", [["bias"], ["dense"], ["kernel:0"]])
def test_excluded_names_are_those_that_training_excludes(names):
    """Keras looks for them in the path of the TensorFlow variable; describing changes no answer."""
    ends = []
    for described_first in (True, False):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense(2, bias_initializer="ones", name="dense")
        model = keras.Sequential([keras.Input((2,)), dense])
        optimizer = SGD(RATE, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=names)
        optimizer.build(model.trainable_variables)
        if described_first:
            dynamics.describe(optimizer)
        zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
        before = flat(model.trainable_variables)
        optimizer.apply(zeros, model.trainable_variables)
        ends.append(flat(model.trainable_variables))
        decayed = (before != ends[-1]).any()
        assert bool(dynamics.describe(optimizer).weight_decay) == decayed
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_edge_ratio_is_one_where_a_quadratic_with_decay_of_some_variables_turns_unstable(momentum):
    """The first three of five coupled coordinates decay; P puts them on the scale of the others."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((5, 5)))
    hessian = basis * np.arange(1.0, 6.0) @ basis.T
    decay = np.diag([2.0, 2.0, 2.0, 0.0, 0.0])

    def growth(rate):
        """x⁺ = (1 - ηW) x - η m⁺ with m⁺ = βm + Hx, as a map of (x, m)."""
        kept = np.eye(5) - rate * decay
        m = np.hstack([hessian, momentum * np.eye(5)])
        x = np.hstack([kept, np.zeros((5, 5))]) - rate * m
        return np.abs(np.linalg.eigvals(np.vstack([x, m]))).max()

    low, high = 0.01, 0.9
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if growth(middle) < 1.0 else (low, middle)
    optimizer = SGD(low, momentum=momentum, weight_decay=2.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    apply(optimizer, ((1.0, 1.0, 1.0), (1.0, 1.0)), num_updates=1)
    p = flat(keras_aeos.preconditioner(optimizer))
    [*_, top] = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))
    # Keras keeps the learning rate in float32.
    assert top / keras_aeos.stability_threshold(optimizer) == pytest.approx(1.0, rel=1e-6)
    assert dynamics.describe(optimizer).approximation == ""


def test_decay_of_some_variables_with_nesterov_is_an_approximation():
    optimizer = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    apply(optimizer)
    assert "too low by at most a relative 0.01" in dynamics.describe(optimizer).approximation


# ------------------------------------------------------------------- other steps than every one


@pytest.mark.parametrize("name", ["adam", "keras_adam", "keras_lamb", "adafactor_scaled"])
def test_preconditioner_within_a_cycle_is_that_of_the_last_update(name):
    """Micro-steps that only accumulate change neither P nor the number of updates."""
    optimizer = OPTIMIZERS[name].make(schedule(RATE), gradient_accumulation_steps=3)
    seen: dict = {}
    for count, _ in enumerate(random_path(optimizer, num_steps=8), 1):
        if count >= 3:
            p = flat(keras_aeos.preconditioner(optimizer))
            rate = dynamics.describe(optimizer).learning_rate
            first_p, first_rate = seen.setdefault(count // 3, (p, rate))
            np.testing.assert_array_equal(p, first_p)
            assert rate == first_rate
            assert dynamics.num_updates(optimizer) == count // 3
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["adam", "keras_adam"])
def test_step_that_loss_scaling_skips_changes_nothing(name):
    optimizer = keras.optimizers.LossScaleOptimizer(OPTIMIZERS[name].make(schedule(RATE)))
    [variable] = apply(optimizer, ((1.0, 2.0),), num_updates=2)
    before = flat(keras_aeos.preconditioner(optimizer)), dynamics.describe(optimizer).learning_rate
    optimizer.apply([tf.constant([np.inf, 1.0], tf.float64)], [variable])
    after = flat(keras_aeos.preconditioner(optimizer)), dynamics.describe(optimizer).learning_rate
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]
    assert dynamics.num_updates(optimizer) == 2


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_several_optimizers_count_updates_and_not_micro_steps():
    parts = {n: SGD(RATE, gradient_accumulation_steps=k) for n, k in (("kernel", 2), ("bias", 3))}
    optimizer = keras.optimizers.MultiOptimizer(lambda v: parts[v.name])
    variables = apply(optimizer, num_updates=1)
    assert dynamics.num_updates(optimizer) == 0
    optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)
    assert dynamics.num_updates(optimizer) == 1
    assert "accumulate gradients over different" in dynamics.describe(optimizer).approximation


@pytest.mark.parametrize("settings", [{}, {"beta": 0.3}])
def test_first_update_of_ftrl_is_an_approximation(settings):
    optimizer = keras.optimizers.Ftrl(RATE, **settings)
    variables = apply(optimizer, num_updates=1)
    assert "first update" in dynamics.describe(optimizer).approximation
    optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)
    assert dynamics.describe(optimizer).approximation == ""


# --------------------------------------------------------------------------------------- clipping

GRADIENTS = [[3.0, 0.0], [4.0]]


def in_two_parts():
    """The first variable is clipped to norm 1.5, the second one by value to 0.5."""
    parts = {"first": SGD(RATE, clipnorm=1.5), "second": SGD(RATE, clipvalue=0.5)}
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(SGD(RATE), parts))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SGD(RATE), GRADIENTS),
        (lambda: SGD(RATE, global_clipnorm=10.0), GRADIENTS),
        (lambda: SGD(RATE, global_clipnorm=0.5), [[0.3, 0.0], [0.4]]),
        (lambda: SGD(RATE, clipnorm=3.5), [[3.0, 0.0], [3.5]]),
        (lambda: SGD(RATE, clipvalue=2.0), [[2.0, 0.0], [2.0]]),
        (in_two_parts, [[1.5, 0.0], [0.5]]),
    ],
)
def test_clipped_gradients_are_those_of_the_update(make, expected):
    """Both by hand and by the update that gradient descent makes."""
    optimizer = make()
    variables = [
        keras.Variable(tf.zeros(len(g)), name=name)
        for g, name in zip(GRADIENTS, ("first", "second"), strict=True)
    ]
    optimizer.build(variables)
    gradients = [tf.constant(g) for g in GRADIENTS]
    found = base_arguments.clipped(optimizer, gradients)
    optimizer.apply(gradients, variables)
    for clipped, wanted, variable in zip(found, expected, variables, strict=True):
        np.testing.assert_allclose(clipped, wanted, rtol=1e-6)
        np.testing.assert_allclose(variable.numpy(), -RATE * np.array(wanted), rtol=1e-6)


# ------------------------------------------------------------------------- the rate of the update


@pytest.mark.parametrize("name", ["keras_sgd", "keras_lamb", "keras_ftrl", "adam"])
def test_rate_that_a_callback_changed_after_the_update_is_not_used(name):
    """What is described with the rate of the update is what was described before the change."""
    make = keras.optimizers.Ftrl if name == "keras_ftrl" else OPTIMIZERS[name].make
    settings = {"l2_regularization_strength": 0.3} if name == "keras_ftrl" else {}
    optimizer = make(RATE, **settings)
    apply(optimizer)
    before = dynamics.describe(optimizer)
    expected = flat(before.diagonals()), before.learning_rate, before.stability_threshold()
    optimizer.learning_rate = 10 * RATE
    after = dynamics.describe(optimizer, learning_rate=expected[1])
    np.testing.assert_array_equal(flat(after.diagonals()), expected[0])
    assert (after.learning_rate, after.stability_threshold()) == expected[1:]
    assert dynamics.describe(optimizer).learning_rate == pytest.approx(10 * RATE, rel=1e-6)
