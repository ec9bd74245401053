"""How often the values of tensors are read."""

import numpy as np
import pytest
import tensorflow as tf

from tools.benchmarking.timing import host_reads


@pytest.mark.parametrize(
    ("read", "number"),
    [
        (float, 1),
        (bool, 1),
        (lambda tensor: tensor.numpy(), 1),
        (lambda tensor: np.asarray(tensor), 1),
        (lambda tensor: np.array(tensor, np.float64), 1),
        (lambda tensor: tensor + 1.0, 0),
        (lambda tensor: np.asarray([1.0]), 0),
    ],
)
def test_reads_of_a_tensor_are_counted(read, number):
    tensor = tf.constant(2.0)
    with host_reads() as reads:
        read(tensor)
    assert reads.number == number
    tensor.numpy()
    assert reads.number == number  # not outside of the context
