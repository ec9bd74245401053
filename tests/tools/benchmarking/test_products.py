"""The cost of a product, counted."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tools.benchmarking.networks import NETWORKS
from tools.benchmarking.products import multiplications


def counted(function):
    """Multiplications in the matrix products of a traced function."""
    number = 0
    for operation in function.graph.get_operations():
        if operation.type == "MatMul":
            inner = operation.inputs[0].shape[0 if operation.get_attr("transpose_a") else 1]
            number += math.prod(operation.outputs[0].shape) * inner
    return number


def test_multiplications_are_those_of_the_traced_products():
    model = keras.Sequential(
        [keras.Input((40,), batch_size=8), *[layers.Dense(n, "tanh") for n in (30, 20, 10)]]
    )
    model.compile(loss="mse")
    x, y = np.ones((8, 40), np.float32), np.ones((8, 10), np.float32)
    objective = Objective(model, from_data((x, y), 8))
    objective.linearise().hessian_product(tf.ones([objective.num_parameters]))
    parts = objective.linearise()._parts
    expected = counted(parts._second) / counted(parts._fixed)
    assert multiplications(model) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"), [("transformer", 2.0), ("residual", 1.94), ("fully_connected", 1.28)]
)
def test_multiplications_of_the_measured_networks(name, expected):
    model, _ = NETWORKS[name]()
    assert multiplications(model) == pytest.approx(expected, abs=0.02)
