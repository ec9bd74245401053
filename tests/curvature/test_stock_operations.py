"""Corrected operations are in place for the measuring thread alone, and only while it measures."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from keras_aeos.curvature.second_derivatives import exact_second_derivatives
from tests.cases import flat_parameters, model_with
from tests.curvature.layers_of_users import Residual, Traced

IMAGE = (4, 4, 4)


def types_of_moments():
    """Types of the operations that `tf.nn.moments` is traced to, and whether it is inlined."""
    inner = tf.function(lambda x: tf.nn.moments(x, [0])[1], autograph=False)
    outer = tf.function(inner, autograph=False).get_concrete_function(tf.TensorSpec([3]))
    types = {operation.type for operation in outer.graph.get_operations()}
    types |= {node.op for f in outer.graph.as_graph_def().library.function for node in f.node_def}
    return types & {"StopGradient", "StatefulPartitionedCall", "PartitionedCall"}


def test_other_threads_keep_the_stock_operations():
    stock, seen = types_of_moments(), []
    assert "StopGradient" in stock
    with exact_second_derivatives():
        thread = threading.Thread(target=lambda: seen.append(types_of_moments()))
        thread.start()
        thread.join()
    assert seen == [stock]


def test_contexts_of_threads_may_overlap():
    """A thread that leaves doesn't take the operations from one that is still inside."""
    entered, leave = threading.Event(), threading.Event()

    def other():
        with exact_second_derivatives():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    with exact_second_derivatives():
        leave.set()
        thread.join()
        function = tf.function(lambda x: tf.nn.moments(x, [0])[1], autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec([3])).graph
    assert "StopGradient" not in {operation.type for operation in graph.get_operations()}
    assert "StopGradient" in types_of_moments()


def test_stock_operations_are_back_after_use():
    stock = types_of_moments()
    with pytest.raises(RuntimeError, match="inside"), exact_second_derivatives():
        raise RuntimeError("inside")
    assert types_of_moments() == stock


@pytest.mark.parametrize("layer", [Traced, Residual])
def test_training_is_the_same_with_a_measurement_before_it(layer):
    weights = []
    for measured in (False, True):
        keras.utils.set_random_seed(0)
        model, x, y = model_with(layer(), IMAGE)
        if measured:
            objective = Objective(model, from_data((x, y)))
            objective.linearise().hessian_product(tf.ones([objective.num_parameters]))
        model.fit(x, y, batch_size=2, epochs=2, verbose=0)
        weights.append(flat_parameters(model))
    np.testing.assert_array_equal(*weights)
