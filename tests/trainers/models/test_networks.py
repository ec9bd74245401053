"""The networks are the specified ones, train, and have an exact Hessian."""

import itertools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos.curvature.batches import from_data
from keras_aeos.curvature.objective import Objective
from tests.cases import flat_parameters, training_gradient
from trainers import schema, training
from trainers.models import resnet50, wide_resnet
from trainers.tasks.base import task_of

# A few hundred parameters each, for images of 32 × 32.
TINY = {
    "cnn": schema.CNN(filters=[2, 3, 2], units=[4, 3]),
    "wide_resnet": schema.WideResNet(blocks_per_group=1, multiplier=1, filters=1, stem_stride=4),
    "wide_resnet without BatchNorm": schema.WideResNet(
        blocks_per_group=1, multiplier=1, filters=1, stem_stride=4, batch_norm=False
    ),
}
# Each network with one loss, and one with both; the others are slow.
NETWORKS_AND_LOSSES = [
    (name, loss)
    if name == "cnn" or loss == "cross_entropy"
    else pytest.param(name, loss, marks=pytest.mark.slow)
    for name in TINY
    for loss in schema.LOSSES
]


def config(model, data_set="cifar10", **changes):
    return schema.Config(
        **{
            "model": model,
            "data": schema.Data(name=data_set, num_examples=40, micro_batch_size=20),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=3e-3),
            "steps": 20,
            "output_dir": "",
            **changes,
        }
    )


def num_parameters(model):
    """Numbers of trainable and of other parameters."""
    kinds = model.trainable_variables, model.non_trainable_variables
    return tuple(sum(int(np.prod(v.shape)) for v in kind) for kind in kinds)


def test_fully_connected_network_is_the_specified_one():
    model = task_of(config(schema.FullyConnected())).build_model()
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    sizes = [3_072, 200, 200, 200, 200, 200, 10]
    assert shapes == [s for n, m in itertools.pairwise(sizes) for s in ((n, m), (m,))]
    for kernel, bias in zip(*[iter(model.trainable_variables)] * 2, strict=True):
        values = kernel.numpy() * np.sqrt(kernel.shape[0])
        # Mean and variance of n standard normal numbers, five standard errors wide.
        error = 5 / np.sqrt(values.size)
        assert abs(values.mean()) < error
        assert abs(values.var() - 1) < np.sqrt(2) * error
        assert not bias.numpy().any()
    # A truncated normal would end at two standard deviations.
    assert abs(model.trainable_variables[0].numpy()).max() * np.sqrt(3_072) > 3
    activations = [layer.activation.__name__ for layer in model.layers if hasattr(layer, "units")]
    assert activations == ["tanh"] * 5 + ["linear"]


def test_layers_of_one_shape_differ_and_seeds_decide():
    def kernels(seed):
        settings = config(schema.FullyConnected(hidden_layers=3, width=8), seed=seed)
        return [v.numpy() for v in task_of(settings).build_model().trainable_variables[::2]]

    first, again, other = kernels(0), kernels(0), kernels(1)
    assert not np.array_equal(first[1], first[2])
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_cnn_is_the_specified_one():
    model = task_of(config(schema.CNN())).build_model()
    convolutions = 75 * 64 + 64, 576 * 96 + 96, 864 * 128 + 128
    # 32 → 28 → 13 → 11 → 5 → 5 → 2 pixels.
    dense = 2 * 2 * 128 * 512 + 512, 512 * 256 + 256, 256 * 10 + 10
    assert num_parameters(model) == (sum(convolutions) + sum(dense), 0)
    assert [v.shape[:2] for v in model.trainable_variables[:6:2]] == [(5, 5), (3, 3), (3, 3)]
    for kernel, bias in zip(*[iter(model.trainable_variables)] * 2, strict=True):
        values = kernel.numpy() * np.sqrt(np.prod(kernel.shape[:-1]))
        # The variance of n standard normal numbers, five standard errors wide.
        assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
        assert not bias.numpy().any()


@pytest.mark.parametrize(("data", "millions"), [("cifar10", 36.48), ("cifar100", 36.54)])
def test_wide_resnet_has_the_parameters_of_wrn_28_10(data, millions):
    """36.5 million in Table 4 of Zagoruyko and Komodakis."""
    model = task_of(config(schema.WideResNet(), data)).build_model()
    trainable, others = num_parameters(model)
    assert round(trainable / 1e6, 2) == millions
    # Each of the 25 normalisations keeps a mean and a variance of what it sees: the first of each
    # block sees the output of the block before, the last one of all that of the last block.
    channels = (16 + 7 * 160) + (160 + 7 * 320) + (320 + 7 * 640) + 640
    assert others == 2 * channels
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 25 + 3  # and the three 1×1 of the shortcuts


def test_wide_resnet_without_batch_norm_has_a_scalar_for_each_block():
    with_norm, without = (
        task_of(config(schema.WideResNet(filters=1, batch_norm=batch_norm))).build_model()
        for batch_norm in (True, False)
    )
    (trainable, others), (fewer, none) = num_parameters(with_norm), num_parameters(without)
    assert none == 0
    assert fewer == trainable - others + 12
    scales = [layer.scale for layer in without.layers if isinstance(layer, wide_resnet.Scale)]
    assert [float(scale.value) for scale in scales] == [1.0] * 12


def test_multiplier_and_depth_are_configuration():
    small = schema.WideResNet(blocks_per_group=2, multiplier=3, filters=4)
    model = task_of(config(small)).build_model()
    widths = [x.filters for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert sorted(set(widths)) == [4, 12, 24, 48]
    assert widths.count(48) == 5
    assert model.get_layer(index=-2).input.shape == (None, 8, 8, 48)


def test_resnet_50_has_the_parameters_of_the_literature():
    """25,557,032 in other packages, whose convolutions have none of these 26,560 biases."""
    settings = config(schema.ResNet50(), "imagenet2012")
    model = resnet50.build_model(settings)
    biases = sum(layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert biases == 26_560
    assert num_parameters(model) == (25_557_032 + biases, 53_120)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize("model", [*TINY.values(), schema.ResNet50()])
def test_initial_weights_follow_from_the_seed(model):
    def kernel(seed):
        # What else has drawn random numbers doesn't matter.
        keras.random.normal((3,))
        return task_of(config(model, seed=seed)).build_model().trainable_variables[0].numpy()

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert not np.array_equal(kernel(1), kernel(2))


@pytest.mark.parametrize(("name", "loss"), NETWORKS_AND_LOSSES)
def test_training_and_measuring(name, loss, prepared, tmp_path):
    """20 steps from the command to the files, and the loss falls."""
    settings = config(
        TINY[name],
        loss=loss,
        data=schema.Data(data_dir=prepared, num_examples=40, micro_batch_size=20),
        monitor=schema.Monitor(update_freq=10, rtol=1e-2),
    )
    outcome = training.train(settings, tmp_path, {})
    assert outcome.record["steps"] == 20
    assert outcome.record["last_loss"] < outcome.record["first_loss"]
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics["step"]) == [10, 20]
    assert np.isfinite(metrics["preconditioned_sharpness"]).all()
    assert metrics["converged"].all()


@pytest.mark.slow
def test_resnet_50_has_an_exact_hessian_and_trains():
    """On 32 × 32 pixels, in float64; products against differences of the gradient."""
    keras.config.set_floatx("float64")
    settings = config(schema.ResNet50(), optimizer=schema.OPTIMIZERS["adam"](learning_rate=1e-4))
    task = task_of(settings)
    model = task.build_model()
    training.compile_model(model, task)
    x = np.random.default_rng(0).standard_normal((6, 32, 32, 3))
    y = np.arange(6)
    hessian = Objective(model, from_data((x, y))).linearise()
    start = flat_parameters(model)
    vector = np.random.default_rng(1).standard_normal(len(start))
    vector /= np.linalg.norm(vector)
    product = hessian.hessian_product(tf.constant(vector)).numpy()
    gradient = training_gradient(model, x, y)
    expected = (gradient(start + 1e-6 * vector) - gradient(start - 1e-6 * vector)) / 2e-6
    assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)
    losses = model.fit(x, y, batch_size=6, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("name", "loss"), NETWORKS_AND_LOSSES)
def test_hessian_is_that_of_differences_of_the_gradient(name, loss):
    """In float64, two micro-batches, BatchNorm with the statistics of each."""
    keras.config.set_floatx("float64")
    settings = config(TINY[name], loss=loss)
    task = task_of(settings)
    model = task.build_model()
    training.compile_model(model, task)
    random = np.random.default_rng(0)
    x = random.standard_normal((12, 32, 32, 3))
    labels = random.integers(0, 10, 12)
    y = labels if loss == "cross_entropy" else np.eye(10)[labels]
    gradients = [training_gradient(model, x[rows], y[rows]) for rows in (slice(6), slice(6, 12))]
    start = flat_parameters(model)
    hessian = Objective(model, from_data((x, y), 6)).linearise()
    for _ in range(3):
        vector = random.standard_normal(len(start))
        # Central differences, wrong by the square of the step and by rounding over the step.
        step = 1e-5 * vector / np.linalg.norm(vector)
        expected = sum(g(start + step) - g(start - step) for g in gradients) / 4e-5
        product = hessian.hessian_product(tf.constant(vector)) / np.linalg.norm(vector)
        assert np.linalg.norm(product - expected) <= 1e-6 * np.linalg.norm(expected)
