"""The convolutional network."""

from typing import cast

import keras
from keras import layers

from trainers.models.initialisation import kernels
from trainers.schema import CNN, DATASETS, Config

# Kernel width and padding of each convolution.
_CONVOLUTIONS = ((5, "valid"), (3, "valid"), (3, "same"))


def build_model(config: Config) -> keras.Model:
    """Build the network of the `model` section for the data set of the `data` section.

    Three blocks of convolution, ReLU and 3×3 max pooling with stride 2 are followed by two fully
    connected layers with ReLU, and the logits. Biases are zero; weights are those of
    `initialisation.kernels`.

    Raises:
        ValueError: The images are too small for the convolutions.

    References:
        Cohen et al. 2022, Appendix G.1.
    """
    dataset = DATASETS[config.data.name]
    sizes = cast(CNN, config.model)
    kernel = kernels(config.seed)
    stack: list[layers.Layer] = [keras.Input(dataset.input_shape)]
    for filters, (width, padding) in zip(sizes.filters, _CONVOLUTIONS, strict=True):
        stack += [
            layers.Conv2D(
                filters, width, padding=padding, activation="relu", kernel_initializer=next(kernel)
            ),
            layers.MaxPooling2D(3, strides=2),
        ]
    stack.append(layers.Flatten())
    for units in sizes.units:
        stack.append(layers.Dense(units, "relu", kernel_initializer=next(kernel)))
    stack.append(layers.Dense(dataset.num_classes, kernel_initializer=next(kernel)))
    return keras.Sequential(stack, name=config.model.name)
