"""The wide residual network, with or without BatchNorm."""

from collections.abc import Iterator
from typing import cast

import keras
from keras import layers

from trainers.models.initialisation import kernels
from trainers.schema import DATASETS, Config, WideResNet

_GROUPS = (1, 2, 4)  # filters, relative to the first group
_MOMENTUM, _EPSILON = 0.9, 1e-5  # of BatchNorm


def build_model(config: Config) -> keras.Model:
    """Build the network of the `model` section for the data set of the `data` section.

    The layers are a 3×3 convolution, three groups of residual blocks, BatchNorm, ReLU, the mean
    over the image and the logits. The second and the third group halve height and width. A block
    adds ``conv(relu(norm(conv(relu(norm(x))))))`` to its input x, which passes a 1×1 convolution if
    the shapes differ. Without BatchNorm the residual branch is multiplied by a learnable scalar,
    initially 1. Weights are those of `initialisation.kernels`; only the last layer has biases.

    References:
        Zagoruyko and Komodakis, "Wide residual networks", 2016; Cohen et al. 2022, Appendix G.1
        (the variant without BatchNorm). The paper gives no initial weights for it; these are the
        ones of its other networks.
    """
    dataset = DATASETS[config.data.name]
    sizes = cast(WideResNet, config.model)
    kernel = kernels(config.seed)
    inputs = keras.Input(dataset.input_shape)
    x = _convolution(sizes.filters, 3, sizes.stem_stride, kernel)(inputs)
    for group, factor in enumerate(_GROUPS):
        for block in range(sizes.blocks_per_group):
            stride = 2 if group and not block else 1
            x = _block(x, factor * sizes.multiplier * sizes.filters, stride, sizes, kernel)
    x = layers.GlobalAveragePooling2D()(_activated(x, sizes))
    outputs = layers.Dense(dataset.num_classes, kernel_initializer=next(kernel))(x)
    return keras.Model(inputs, outputs, name=config.model.name)


@keras.saving.register_keras_serializable(package="trainers")
class Scale(layers.Layer):
    """Multiplies by one learnable scalar, initially 1."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the scalar."""
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """The inputs times the scalar."""
        return inputs * self.scale


def _block(
    x: keras.KerasTensor,
    filters: int,
    stride: int,
    sizes: WideResNet,
    kernel: Iterator[keras.initializers.Initializer],
) -> keras.KerasTensor:
    activated = _activated(x, sizes)
    branch = _convolution(filters, 3, stride, kernel)(activated)
    branch = _convolution(filters, 3, 1, kernel)(_activated(branch, sizes))
    if not sizes.batch_norm:
        branch = Scale()(branch)
    if x.shape[-1] != filters or stride != 1:
        # Strides before the convolution: with strides of its own, and few channels, a kernel of
        # TensorFlow's has a wrong gradient (`keras_aeos.curvature.convolutions`).
        pixels = layers.AveragePooling2D(1, stride)(activated) if stride != 1 else activated
        x = _convolution(filters, 1, 1, kernel)(pixels)
    return layers.Add()([x, branch])


def _activated(x: keras.KerasTensor, sizes: WideResNet) -> keras.KerasTensor:
    if sizes.batch_norm:
        x = layers.BatchNormalization(momentum=_MOMENTUM, epsilon=_EPSILON)(x)
    return layers.ReLU()(x)


def _convolution(
    filters: int, width: int, stride: int, kernel: Iterator[keras.initializers.Initializer]
) -> layers.Layer:
    return layers.Conv2D(
        filters,
        width,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=next(kernel),
    )
