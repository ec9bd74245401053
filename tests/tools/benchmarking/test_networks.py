"""The examples that benchmarks measure on fit their networks."""

import numpy as np
import pytest

from tools.benchmarking import networks


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


@pytest.mark.parametrize("name", networks.LAPTOP)
def test_random_examples_fit_each_network(name):
    model, num_examples = networks.NETWORKS[name]()
    x, y = networks.random_examples(model, num_examples)
    assert x.shape == (num_examples, *model.input_shape[1:])
    assert y.shape == (num_examples, *model.output_shape[1:-1])
    assert y.max() < model.output_shape[-1]
