"""Layers of a Hessian: blocks and shares against the dense matrix, in float64."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_aeos
from keras_aeos import AEoSMonitor, Eigensolver
from keras_aeos.curvature.layers import by_layer
from tests.cases import build, dense_hessian, fit_one, flat, random_preconditioner

TIGHT = Eigensolver(rtol=1e-10, max_hvps=500)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")


def slices(model):
    """The layers of a model and their places in a flat vector, by the names that Keras gives."""
    begin = 0
    found: dict[str, list[int]] = {}
    for variable in model.trainable_variables:
        name = variable.path.removeprefix(f"{model.name}/").rpartition("/")[0]
        end = begin + int(np.prod(variable.shape))
        found.setdefault(name, []).extend(range(begin, end))
        begin = end
    return found


@pytest.mark.parametrize("name", ["dense", "layer_normalised"])
def test_blocks_are_those_of_the_dense_hessian(name, float64):
    model, x, y = build(name)
    preconditioner, p = random_preconditioner(model)
    matrix = dense_hessian(model, x, y) / np.sqrt(np.outer(p, p))
    pairs = keras_aeos.layer_eigenpairs(model, (x, y), preconditioner=preconditioner, solver=TIGHT)
    places = slices(model)
    assert set(pairs) == {"", *places}
    largest = np.linalg.eigvalsh(matrix)[-1]
    # Differences of the gradient are good to 1e-6 of the largest eigenvalue.
    assert pairs[""].eigenvalues[0] == pytest.approx(largest, rel=1e-5)
    for layer, at in places.items():
        block = np.linalg.eigvalsh(matrix[np.ix_(at, at)])[-1]
        assert pairs[layer].eigenvalues[0] == pytest.approx(block, abs=1e-5 * largest), layer
        # H u = λ P u with uᵀPu = 1, in the block
        u = flat(pairs[layer].eigenvectors[0])
        assert u @ (p[at] * u) == pytest.approx(1.0, rel=1e-6)


def test_variables_of_a_layer_give_its_block(float64):
    model, x, y = build("dense")
    _, second = model.layers
    preconditioner, p = random_preconditioner(model)
    at = slices(model)[second.name]
    block = (dense_hessian(model, x, y) / np.sqrt(np.outer(p, p)))[np.ix_(at, at)]
    result = keras_aeos.top_eigenpairs(
        model,
        (x, y),
        num_eigenvalues=2,
        preconditioner=preconditioner[2:],
        variables=second.trainable_variables,
        solver=TIGHT,
    )
    assert result.eigenvalues == pytest.approx(np.linalg.eigvalsh(block)[:-3:-1], rel=1e-5)
    assert [v.shape for v in result.eigenvectors[0]] == [
        tuple(v.shape) for v in second.trainable_variables
    ]


@pytest.mark.parametrize("choose", [lambda m: [], lambda m: 2 * m.trainable_variables[:1]])
def test_variables_must_be_different_and_trained(choose):
    model, x, y = build("dense")
    with pytest.raises(ValueError, match=r"`variables` must be different.*Received: variables="):
        keras_aeos.top_eigenpairs(model, (x, y), variables=choose(model))


def test_layers_of_one_path_are_told_apart():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(2, name="same")
            self.second = layers.Dense(2, name="same")

        def call(self, x):
            return self.second(self.first(x))

    model = Pair()
    model(np.zeros((1, 2)))
    groups = by_layer(model, model.trainable_variables)
    assert list(groups.values()) == [[0, 1], [2, 3]]
    assert list(groups)[1] == f"{next(iter(groups))} (2)"


def test_layers_of_a_row_are_those_of_the_dense_hessian(float64, tmp_path):
    model, x, y = build("dense", keras_aeos.optimizers.Adam(1e-2))
    monitor = AEoSMonitor(
        (x, y),
        update_freq=1,
        quantities=["edge_layer", "layer_sharpness"],
        solver=TIGHT,
        log_dir=tmp_path,
    )
    row = fit_one(model, x, y, monitor)
    p = flat(keras_aeos.preconditioner(model.optimizer))
    matrix = dense_hessian(model, x, y) / np.sqrt(np.outer(p, p))
    _, vectors = np.linalg.eigh(matrix)
    expected = {layer: np.sum(vectors[at, -1] ** 2) for layer, at in slices(model).items()}
    found = monitor.layers.set_index("layer")["share"].to_dict()
    assert found == pytest.approx(expected, abs=1e-5)
    assert sum(found.values()) == pytest.approx(1.0, rel=1e-12)
    blocks = monitor.layers.set_index("layer")["layer_sharpness"].to_dict()
    for layer, at in slices(model).items():
        value = np.linalg.eigvalsh(matrix[np.ix_(at, at)])[-1]
        assert blocks[layer] == pytest.approx(value, abs=1e-5 * row["preconditioned_sharpness"])
    largest = max(expected, key=lambda layer: expected[layer])
    assert row["edge_layer"] == largest
    assert row["edge_layer_share"] == pytest.approx(expected[largest], abs=1e-5)
    lines = (tmp_path / "layers.csv").read_text().splitlines()
    assert lines[0] == "step,layer,share,layer_sharpness"
    assert [line.split(",")[1] for line in lines[1:]] == list(expected)
