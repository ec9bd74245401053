"""ResNet-50."""

import keras

from trainers.schema import DATASETS, Config


def build_model(config: Config) -> keras.Model:
    """Build the network for the data set of the `data` section.

    The network is the one of Keras Applications: ReLU after the addition (version 1 of the residual
    network), the stride in the first 1×1 convolution of a block, and biases in the convolutions.
    Other packages often put the stride in the 3×3 convolution and have no such biases, that is
    26,560 fewer parameters. Initial weights are Keras' own: Glorot uniform.

    References:
        He et al., "Deep residual learning for image recognition", 2016, Table 1.
    """
    dataset = DATASETS[config.data.name]
    keras.utils.set_random_seed(config.seed)
    return keras.applications.ResNet50(
        weights=None,
        input_shape=dataset.input_shape,
        classes=dataset.num_classes,
        classifier_activation=None,
        name=config.model.name,
    )
