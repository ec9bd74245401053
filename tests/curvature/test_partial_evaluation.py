"""The linearised gradient: products against the dense Hessian, whatever is kept of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature import objective as objective_module
from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.operators import Operator
from tests.cases import MODELS, dense_hessian

NUM_EXAMPLES, BATCH_SIZE = 12, 5  # three micro-batches, the last of them smaller


def max_pooled():
    return [
        keras.Input((6, 6, 2)),
        layers.Conv2D(3, 3, activation="tanh"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(3),
    ]


def recurrent():
    return [keras.Input((3, 2)), layers.SimpleRNN(2), layers.Dense(3)]


def noisy():
    return [
        keras.Input((4,)),
        layers.Dense(5),
        layers.BatchNormalization(),
        layers.Dropout(0.5, seed=1),
        layers.Dense(3),
    ]


LAYERS = {function.__name__: function for function in (max_pooled, recurrent, noisy)}
LAYERS |= {name: MODELS[name] for name in ("dense", "batch_normalised", "embedding")}


def compiled(name, num_examples=NUM_EXAMPLES):
    """A compiled float64 model of the table and its data, ``(model, x, y)``."""
    keras.config.set_floatx("float64")
    model = keras.Sequential(LAYERS[name]())
    model.compile(keras.optimizers.SGD(0.5), keras.losses.CategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(1)
    shape = (num_examples, *model.input_shape[1:])
    tokens = name == "embedding"
    x = generator.integers(0, 7, shape) if tokens else generator.standard_normal(shape)
    return model, x, np.eye(3)[generator.integers(0, 3, num_examples)]


def objective_of(model, x, y, batch_size=BATCH_SIZE):
    return Objective(model, from_data((x, y), batch_size))


def direction(objective, seed=0):
    generator = np.random.default_rng(seed)
    return tf.constant(generator.standard_normal(objective.num_parameters))


def keep(monkeypatch, limit):
    """Let linearisations keep so many bytes."""
    monkeypatch.setattr(objective_module, "room", lambda device: limit)


def kept_bytes(hessian):
    """Bytes of each micro-batch whose intermediate values are kept."""
    return [sum(value.numpy().nbytes for value in values) for values in hessian.kept]


def micro_batches(x, y):
    return [(x[i : i + BATCH_SIZE], y[i : i + BATCH_SIZE]) for i in range(0, len(x), BATCH_SIZE)]


@pytest.mark.parametrize("name", ["max_pooled", "recurrent", "batch_normalised", "embedding"])
def test_products_are_those_of_the_dense_hessian_however_much_is_kept(name, monkeypatch):
    """Differences of the gradient in float64 are good to 1e-6; the ways differ by rounding."""
    model, x, y = compiled(name)
    batches = micro_batches(x, y) if name == "batch_normalised" else [(x, y)]
    dense = sum(len(b) * dense_hessian(model, a, b) for a, b in batches) / NUM_EXAMPLES

    objective = objective_of(model, x, y)
    vector = direction(objective)
    everything = objective.linearise()
    assert objective.parts.linearisable == (name != "recurrent")
    sizes = kept_bytes(everything)
    expected = dense @ vector.numpy()
    product = everything.hessian_product(vector).numpy()
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)
    if name == "recurrent":
        assert sizes == []
        return

    assert len(sizes) == 3
    for limit, num_kept in ((sum(sizes[:2]), 2), (sizes[0] + 1, 1), (sizes[0] - 1, 0), (0, 0)):
        keep(monkeypatch, limit)
        hessian = objective.linearise()
        assert len(hessian.kept) == num_kept
        np.testing.assert_allclose(
            hessian.hessian_product(vector), product, rtol=1e-9, atol=1e-12 * abs(product).max()
        )
        assert hessian.loss == pytest.approx(everything.loss, rel=1e-12)
        np.testing.assert_allclose(hessian.gradient, everything.gradient, rtol=1e-9, atol=1e-14)
    assert objective.num_traces == 1


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [("max_pooled", 5), ("recurrent", 5), ("noisy", 5), ("noisy", 12)],
)
def test_solves_at_several_points_share_one_graph_if_everything_is_kept(name, batch_size):
    """Of ``S H S``; the dense matrix of products is the oracle."""
    model, x, y = compiled(name)
    objective = objective_of(model, x, y, batch_size)
    size = objective.num_parameters
    start = tf.zeros([0, size], tf.float64)
    scale = tf.constant(np.random.default_rng(2).uniform(0.5, 2.0, size))
    for learning_rate, limit in ((0.0, 2**30), (1.0, 2**30), (1.0, 0)):
        model.optimizer.learning_rate = learning_rate
        model.train_on_batch(x, y)
        objective.kept_bytes = limit
        hessian = objective.linearise()
        operator = hessian.operator(scale)
        assert isinstance(operator, Operator) == (limit > 0 and name != "recurrent")
        result = lanczos(operator, start, 2, 1e-6, 100)
        assert hessian.num_products == 0
        matrix = np.stack(
            [hessian.hessian_product(row).numpy() for row in tf.eye(size, dtype=scale.dtype)]
        )
        matrix = scale.numpy()[:, None] * matrix * scale.numpy()
        expected = np.linalg.eigvalsh(matrix)[::-1]
        np.testing.assert_allclose(result.eigenvalues, expected[:2], rtol=1e-6)
    assert len(objective.program.traces) == (name != "recurrent")


def test_graph_of_a_solve_does_not_grow_with_the_number_of_micro_batches():
    model, x, y = compiled("noisy")
    sizes = set()
    for batch_size in (6, 4, 2):
        objective = objective_of(model, x, y, batch_size)
        operator = objective.linearise().operator(tf.ones([objective.num_parameters], tf.float64))
        function = tf.function(operator.program.product, autograph=False)
        traced = function.get_concrete_function(operator.state[0], *operator.state)
        graph = traced.graph.as_graph_def()
        sizes.add(len(graph.node) + sum(len(f.node_def) for f in graph.library.function))
    assert len(sizes) == 1


@pytest.mark.parametrize("limit", [2**30, 0])
def test_product_is_linear_and_symmetric(limit, monkeypatch):
    keep(monkeypatch, limit)
    objective = objective_of(*compiled("noisy"))
    hessian = objective.linearise()
    u, v = direction(objective, 1), direction(objective, 2)
    left, right = hessian.hessian_product(u), hessian.hessian_product(v)
    both = hessian.hessian_product(2.0 * u - 3.0 * v)
    np.testing.assert_allclose(both, 2.0 * left - 3.0 * right, rtol=1e-9, atol=1e-12)
    assert float(tf.tensordot(v, left, 1)) == pytest.approx(float(tf.tensordot(u, right, 1)), 1e-9)
    assert not np.any(hessian.hessian_product(tf.zeros_like(u)))
    assert hessian.num_products == 4


def test_nothing_of_the_model_changes(monkeypatch):
    model, x, y = compiled("noisy")
    model.fit(x, y, verbose=0)
    everything = model.variables + model.optimizer.variables + model.metrics_variables
    before = [v.numpy().copy() for v in everything]
    objective = objective_of(model, x, y)
    for limit in (2**30, 0):
        keep(monkeypatch, limit)
        hessian = objective.linearise([lambda gradient, product: product(gradient)])
        hessian.hessian_product(direction(objective))
        for variable, old in zip(everything, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)


@pytest.mark.parametrize(("name", "limit"), [("noisy", 2**30), ("dense", 0)])
def test_it_stays_at_its_parameters_while_the_model_trains_on(name, limit, monkeypatch):
    keep(monkeypatch, limit)
    model, x, y = compiled(name)
    objective = objective_of(model, x, y)
    hessian, vector = objective.linearise(), direction(objective)
    loss, gradient = hessian.loss, hessian.gradient.numpy().copy()
    product = hessian.hessian_product(vector).numpy().copy()
    model.fit(x, y, epochs=3, verbose=0)
    # The same computation with the same numbers, but for the order of sums in parallel threads.
    np.testing.assert_allclose(hessian.hessian_product(vector), product, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(hessian.gradient, gradient)
    assert hessian.loss == loss
    later = objective.linearise()
    assert abs(later.loss / loss - 1.0) > 1e-3
    assert np.linalg.norm(later.hessian_product(vector) - product) > 1e-3 * np.linalg.norm(product)
    assert objective.num_traces == 1


def test_kept_values_never_exceed_the_limit(monkeypatch):
    """Memory is flat in the number of micro-batches, and used as far as it goes."""
    model, x, y = compiled("dense", 40)
    objective = objective_of(model, x, y, batch_size=2)
    vector = direction(objective)
    sizes = kept_bytes(objective.linearise())
    assert len(sizes) == 20
    [size] = set(sizes)
    products = []
    for limit in (0, size - 1, size, int(3.5 * size), 19 * size, 20 * size):
        keep(monkeypatch, limit)
        hessian = objective.linearise()
        assert sum(kept_bytes(hessian)) <= limit
        assert len(hessian.kept) == limit // size
        products.append(hessian.hessian_product(vector))
    for product in products[1:]:
        np.testing.assert_allclose(product, products[0], rtol=1e-9, atol=1e-12)

    keep(monkeypatch, int(3.5 * size))
    for num_examples in (4, 40):
        again = objective_of(model, x[:num_examples], y[:num_examples], batch_size=2)
        assert len(again.linearise().kept) == min(num_examples // 2, 3)


@pytest.mark.parametrize("name", ["max_pooled", "batch_normalised", "embedding", "noisy"])
@pytest.mark.parametrize("batch_size", [5, 4])  # of 12 examples: shapes unknown, and known
def test_size_of_kept_values_is_known_before_they_are_computed(name, batch_size, monkeypatch):
    """Their sizes are linear in the number of examples here."""
    model, x, y = compiled(name)
    objective = objective_of(model, x, y, batch_size)
    hessian = objective.linearise()
    foretold = [objective.parts.num_bytes(*given) for _, given in hessian._arguments()]
    sizes = kept_bytes(hessian)
    assert foretold == pytest.approx(sizes, rel=0.01)  # but for shapes that are values themselves
    monkeypatch.delattr(type(objective.parts), "first")
    keep(monkeypatch, int(0.9 * sizes[0]))
    assert objective.linearise().kept == []


def test_kept_values_are_used_and_the_others_computed_anew(monkeypatch):
    """Kept micro-batches are not gone through again for a product; the others are."""
    model, x, y = compiled("dense")
    seen = []

    class Watched(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            seen.append(i)
            return x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2]

    objective = Objective(model, from_data(Watched()))
    vector = direction(objective)
    everything = objective.linearise()
    size = kept_bytes(everything)[0]
    seen.clear()
    everything.hessian_product(vector)
    assert seen == []
    keep(monkeypatch, 2 * size)
    some = objective.linearise()
    assert len(some.kept) == 2
    counted = []

    def whole(self, vector, *given):
        counted.append(int(given[-3]))  # before x and y
        return vector

    monkeypatch.setattr(type(objective.parts), "whole", whole)
    some.hessian_product(vector)
    assert counted == [2, 3, 4, 5]


def test_visits_see_each_micro_batch(monkeypatch):
    """Gradient and Hessian of each one alone; visits count as no product over all examples."""
    model, x, y = compiled("dense")
    objective = objective_of(model, x, y)
    vector = direction(objective)
    alone = [objective_of(model, a, b, batch_size=None).linearise() for a, b in micro_batches(x, y)]
    for limit in (2**30, 0):
        keep(monkeypatch, limit)
        visits: list[tuple] = []
        hessian = objective.linearise([lambda g, hvp, to=visits: to.append((g, hvp(vector)))])
        assert hessian.num_products == 0
        for (gradient, product), single in zip(visits, alone, strict=True):
            np.testing.assert_allclose(gradient, single.gradient, rtol=1e-9, atol=1e-14)
            np.testing.assert_allclose(
                product, single.hessian_product(vector), rtol=1e-9, atol=1e-14
            )


def test_model_without_curvature_has_the_product_zero():
    """A loss that is linear in the parameters: nothing depends on the vector."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", loss=lambda y, y_pred: keras.ops.mean(y_pred * y))
    x = np.random.default_rng(0).standard_normal((6, 4))
    objective = objective_of(model, x, np.ones((6, 1)))
    hessian = objective.linearise()
    np.testing.assert_allclose(hessian.gradient, [*x.mean(0), 1.0], rtol=1e-12)
    assert not np.any(hessian.hessian_product(direction(objective)))
