"""Looking optimizers up: subclasses, registered ones, several in one, and those without P."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos import Dynamics, register_dynamics
from keras_aeos.optimizers import dynamics
from keras_aeos.stability import Momentum
from tests.cases import flat
from tests.optimizers.cases import RATE
from tests.optimizers.paths import random_path


class Twice(keras.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(2.0 * gradient, variable, learning_rate)


class TwiceOurs(keras_aeos.optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(2.0 * gradient, variable, learning_rate)


class Renamed(keras.optimizers.Adam):
    pass


@pytest.mark.parametrize("unknown", [Twice, TwiceOurs])
def test_unknown_update_is_refused_by_name(unknown):
    with pytest.raises(
        TypeError, match=rf"register_dynamics\. Received: optimizer={unknown.__name__}"
    ):
        keras_aeos.stability_threshold(unknown(RATE))


def test_subclass_that_keeps_the_update_is_known():
    assert keras_aeos.stability_threshold(Renamed(RATE)) == pytest.approx(38 / RATE, rel=1e-6)


class LikeKeras2:
    """An optimizer of another package."""

    learning_rate = 0.1
    iterations = 3

    def apply_gradients(self, pairs):
        """Nothing."""


# Not described: the words of the refusal.
REFUSED = {
    "none": (lambda: None, "Compile the model with one. Received: optimizer=None"),
    "a name": (lambda: "adam", "Received: optimizer='adam' of type str"),
    "a class": (lambda: keras.optimizers.Adam, "of type"),
    "another package": (LikeKeras2, "of type LikeKeras2"),
    "base": (lambda: keras.optimizers.Optimizer(RATE), "Received: optimizer=Optimizer"),
    "Lion": (lambda: keras.optimizers.Lion(RATE), "optimizer=Lion"),
    "unknown, scaled": (
        lambda: keras.optimizers.LossScaleOptimizer(Twice(RATE)),
        "optimizer=Twice",
    ),
    "Lion, scaled": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Lion(RATE)),
        "optimizer=Lion",
    ),
}


@pytest.mark.parametrize(
    "function",
    [keras_aeos.stability_threshold, keras_aeos.preconditioner, dynamics.describe],
)
@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_description_is_refused_by_type(make, words, function):
    with pytest.raises(TypeError, match=words):
        function(make())


@pytest.mark.parametrize("function", [dynamics.num_updates, dynamics.last_learning_rate])
@pytest.mark.parametrize("wrong", [None, "adam", LikeKeras2()])
def test_only_a_keras_optimizer_has_updates_and_a_rate(function, wrong):
    with pytest.raises(TypeError, match="Received: optimizer="):
        function(wrong)


def test_variables_that_are_overwritten_by_their_gradient_have_no_preconditioner():
    """As the scales of float8 layers; Keras gives them no slots."""
    optimizer = keras.optimizers.Adam(RATE)
    scale = keras.Variable(1.0, name="scale")
    scale.overwrite_with_gradient = True
    optimizer.build([keras.Variable(np.ones(2)), scale])
    with pytest.raises(TypeError, match="float8"):
        keras_aeos.stability_threshold(optimizer)


@pytest.mark.parametrize("name", ["Lion", "Muon"])
def test_optimizers_without_a_preconditioner_say_why(name):
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    with pytest.raises(TypeError, match=rf"no (diagonal )?preconditioner.*optimizer={name}"):
        keras_aeos.stability_threshold(getattr(keras.optimizers, name)(RATE))


def test_muon_without_matrices_is_adam():
    if not hasattr(keras.optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    muon = keras.optimizers.Muon(RATE, exclude_layers=[".*"], adam_weight_decay=0.1, epsilon=1e-2)
    adam = keras.optimizers.AdamW(RATE, weight_decay=0.1, epsilon=1e-2)
    *_, (ours, _) = random_path(muon, dtype="float32")
    *_, (theirs, _) = random_path(adam, dtype="float32")
    np.testing.assert_allclose(flat(ours[-1]), flat(theirs[-1]), rtol=1e-5)
    np.testing.assert_allclose(
        flat(keras_aeos.preconditioner(muon)), flat(keras_aeos.preconditioner(adam)), rtol=1e-5
    )
    assert keras_aeos.stability_threshold(muon) == keras_aeos.stability_threshold(adam)


def test_preconditioner_before_the_first_update_is_refused():
    optimizer = keras_aeos.optimizers.Adam(RATE)
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(ValueError, match="iterations=0"):
        keras_aeos.preconditioner(optimizer)


def test_registered_optimizer_is_known_with_its_base_arguments():
    class Registered(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient / 4.0, variable, learning_rate)

    @register_dynamics(Registered)
    def describe(optimizer):
        return Dynamics(
            momentum=Momentum.heavy_ball(optimizer.momentum),
            diagonals=lambda: [tf.fill(m.shape, 4.0) for m in optimizer.momentums],
        )

    assert describe.__name__ == "describe"
    optimizer = Registered(RATE, momentum=0.9, weight_decay=0.2)
    for _ in random_path(optimizer, num_steps=1, dtype="float32"):
        pass
    assert keras_aeos.stability_threshold(optimizer) == pytest.approx(
        1.9 * (2 - RATE * 0.2) / RATE, rel=1e-6
    )
    assert set(flat(keras_aeos.preconditioner(optimizer))) == {4.0}


@pytest.mark.parametrize("wrong", [keras.layers.Dense, "adam", keras.optimizers.Adam(RATE)])
def test_only_optimizer_classes_are_registered(wrong):
    with pytest.raises(TypeError, match="optimizer_type="):
        register_dynamics(wrong)


def test_decay_that_every_variable_is_excluded_from_does_not_count():
    optimizer = keras_aeos.optimizers.AdamW(RATE, weight_decay=0.5)
    variable = keras.Variable(np.ones(3), name="bias")
    optimizer.exclude_from_weight_decay([variable])
    optimizer.build([variable])
    assert dynamics.describe(optimizer).weight_decay == 0.0


def test_ftrl_names_what_it_leaves_out():
    optimizer = keras.optimizers.Ftrl(RATE, l1_regularization_strength=0.1, weight_decay=0.1)
    description = dynamics.describe(optimizer)
    assert "l1_regularization_strength" in description.approximation
    assert "weight_decay" in description.approximation
    assert "shrinkage" not in description.approximation


# ---------------------------------------------------------------------- several optimizers in one

multi = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)


def by_rank(matrices, others):
    """Matrices to one optimizer and everything else to another."""
    return keras.optimizers.MultiOptimizer(lambda v: matrices if len(v.shape) > 1 else others)


@multi
def test_several_learning_rates_make_one_preconditioner():
    """``x⁺ = x - η P⁻¹ g`` with one η for all."""
    optimizer = by_rank(keras.optimizers.SGD(RATE), keras.optimizers.RMSprop(3 * RATE))
    for parameters, gradients in random_path(optimizer, num_steps=3):
        described = dynamics.describe(optimizer)
        step = described.learning_rate * flat(gradients[-1])
        expected = flat(parameters[-2]) - step / flat(keras_aeos.preconditioner(optimizer))
        np.testing.assert_allclose(flat(parameters[-1]), expected, rtol=1e-6, atol=1e-8)
    assert described.approximation == ""


@multi
@pytest.mark.parametrize(("fraction", "stable"), [(0.98, True), (1.02, False)])
def test_threshold_of_optimizers_with_different_momentum(fraction, stable):
    """Heavy ball on one block of a coupled quadratic, gradient descent with decay on the other."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((7, 7)))
    hessian = basis * np.arange(1.0, 8.0) @ basis.T
    matrix, vector = (keras.Variable(np.ones(s), dtype="float64") for s in ((2, 2), (3,)))

    def make(rate):
        return by_rank(
            keras.optimizers.SGD(rate, momentum=0.9),
            keras.optimizers.SGD(rate / 3, weight_decay=0.05),
        )

    def edge(optimizer):
        p = flat(keras_aeos.preconditioner(optimizer))
        [*_, top] = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))
        return top / keras_aeos.stability_threshold(optimizer)

    def run(optimizer, num_steps):
        constant = tf.constant(hessian)
        optimizer.build([matrix, vector])

        @tf.function
        def update():
            for _ in tf.range(num_steps):
                step()

        def step():
            x = tf.concat([tf.reshape(matrix.value, [-1]), vector.value], 0)
            gradient = tf.linalg.matvec(constant, x)
            optimizer.apply([tf.reshape(gradient[:4], (2, 2)), gradient[4:]], [matrix, vector])

        update()
        return np.abs(flat([matrix, vector])).max()

    # The edge ratio is all but linear in the rate: the decay takes a few thousandths of it.
    rate = 0.1
    for _ in range(4):
        probe = make(rate)
        run(probe, 1)
        rate *= fraction / edge(probe)
    matrix.assign(np.ones((2, 2)))
    vector.assign(np.ones(3))
    optimizer = make(rate)
    end = run(optimizer, 2000)
    assert edge(optimizer) == pytest.approx(fraction, rel=1e-4)
    assert dynamics.describe(optimizer).approximation == ""
    assert end < 1e-3 if stable else end > 1e3


@multi
def test_nesterov_beside_another_momentum_is_called_an_approximation():
    optimizer = by_rank(
        keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True), keras.optimizers.SGD(RATE)
    )
    next(random_path(optimizer))
    assert "MultiOptimizer" in dynamics.describe(optimizer).approximation


@multi
def test_several_optimizers_are_known_from_their_first_update_on():
    optimizer = by_rank(keras.optimizers.SGD(RATE), keras.optimizers.Adam(RATE))
    with pytest.raises(TypeError, match="first update"):
        keras_aeos.stability_threshold(optimizer)
    assert np.isnan(dynamics.last_learning_rate(optimizer))
