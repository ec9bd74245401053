"""Every operation of the installed TensorFlow has a class; the exact ones were compared."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.curvature.second_derivatives import InexactError, exact_second_derivatives
from tools.benchmarking import operations
from tools.benchmarking.samples import ONCE

TABLE = Path(__file__).parent / "operations.csv"


@pytest.fixture(scope="module")
def classes():
    with TABLE.open() as file:
        return {row["operation"]: row["class"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def compared():
    return operations.compare()


def test_every_operation_has_a_class(classes):
    """For a new operation, add a sample and write the table again with `tools/exactness.py`."""
    assert {d.name for d in operations.definitions()} - set(classes) == set()
    assert set(classes.values()) <= set(operations.CLASSES)


@pytest.mark.slow
def test_samples_are_exact(compared):
    errors, _ = compared
    off = {name: error for name, error in errors.items() if not error <= operations.tolerance(name)}
    assert off == {}


@pytest.mark.slow
@pytest.mark.skipif(not tf.__version__.startswith("2.21."), reason="the table is of 2.21")
def test_table_is_that_of_the_samples(classes, compared):
    _, exact = compared
    changed = {name: kind for name, kind in operations.classify(exact) if classes[name] != kind}
    assert changed == {}


@pytest.mark.parametrize("name", ONCE)
def test_operations_with_one_derivative_are_refused(name):
    @tf.function(autograph=False)
    def product(x):
        with exact_second_derivatives(), tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(ONCE[name](x) ** 3)
            gradient = tf.convert_to_tensor(inner.gradient(value, x))
            return outer.gradient(gradient, x, x)

    x = tf.constant(np.random.default_rng(0).standard_normal((4, 4)), tf.float32)
    with pytest.raises(InexactError, match=r"No exact Hessian: .*TensorFlow"):
        product(x)
