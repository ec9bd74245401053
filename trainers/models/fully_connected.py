"""The fully connected network."""

from typing import cast

import keras
import numpy as np

from trainers.schema import DATASETS, Config, FullyConnected


def build_model(config: Config) -> keras.Model:
    """Build the network of the `model` section for the data set of the `data` section.

    Weights are normal with variance 1/fan_in, not truncated, and follow from `config.seed`; biases
    are zero. The outputs are logits.

    References:
        Cohen et al. 2022, Appendix G.1.
    """
    dataset = DATASETS[config.data.name]
    sizes = cast(FullyConnected, config.model)
    widths = [sizes.width] * sizes.hidden_layers + [dataset.num_classes]
    seeds = np.random.SeedSequence(config.seed).generate_state(len(widths))
    layers = [keras.Input(dataset.input_shape), keras.layers.Flatten()]
    for index, (width, seed) in enumerate(zip(widths, seeds, strict=True)):
        layers.append(
            keras.layers.Dense(
                width,
                activation=sizes.activation if index < sizes.hidden_layers else None,
                kernel_initializer=keras.initializers.VarianceScaling(
                    scale=1.0, mode="fan_in", distribution="untruncated_normal", seed=int(seed)
                ),
                name=f"dense_{index + 1}",
            )
        )
    return keras.Sequential(layers, name=config.model.name)
