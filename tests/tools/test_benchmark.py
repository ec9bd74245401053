import numpy as np
import pytest
import tensorflow as tf

from tools import benchmark
from tools.benchmarking import networks


@pytest.mark.parametrize("num_values", [2, 3, 4])
def test_in_hindsight_as_many_products_do_as_there_are_eigenvalues(num_values):
    """A Krylov space is invariant once it has a vector of each of a few equidistant eigenvalues."""
    values = tf.constant(np.linspace(0.0, 2.0, num_values)[np.arange(600) % num_values], tf.float32)
    start = tf.random.stateless_normal([600], seed=[3, 0])
    matrix = benchmark.reference_run(lambda v: values * v, start)
    assert benchmark.tune_lanczos([matrix], 2.0) == num_values


def test_the_reference_is_the_largest_eigenvalue():
    dense = np.random.default_rng(0).standard_normal((200, 200))
    dense = (dense + dense.T) / 2.0 + 30.0 * np.eye(200)
    matrix = benchmark.reference_run(
        lambda v: tf.linalg.matvec(tf.constant(dense, tf.float32), v),
        tf.random.stateless_normal([200], seed=[3, 0]),
    )
    exact = np.linalg.eigvalsh(dense)[-1]
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[-1], exact, rtol=1e-5)


def test_labels_of_a_text_are_the_characters_that_follow():
    model, num_sequences = networks.transformer()
    x, y = networks.natural_examples(model, num_sequences)
    assert x.shape == (num_sequences, *model.input_shape[1:])
    assert y.shape == (num_sequences, *model.output_shape[1:-1])
    assert y.max() < model.output_shape[-1]

    vectors, labels = x.reshape(-1, x.shape[-1])[1:], y.ravel()[:-1]
    assert len(np.unique(labels)) > 10
    for label in np.unique(labels):
        assert len(np.unique(vectors[labels == label], axis=0)) == 1
    assert len(np.unique(vectors, axis=0)) == len(np.unique(labels))


@pytest.mark.parametrize("build", networks.NETWORKS)
def test_random_examples_fit_each_network(build):
    model, num_examples = build()
    x, y = networks.random_examples(model, num_examples)
    assert x.shape == (num_examples, *model.input_shape[1:])
    assert y.shape == (num_examples, *model.output_shape[1:-1])
    assert y.max() < model.output_shape[-1]
