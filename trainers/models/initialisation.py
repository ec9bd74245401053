"""Initial weights, the same in all networks of the paper."""

from collections.abc import Iterator

import keras
import numpy as np


def kernels(seed: int) -> Iterator[keras.initializers.Initializer]:
    """Yield endless initializers, one per layer: normal, variance 1/fan_in, not truncated.

    Args:
        seed: Determines all of them; each has random numbers of its own.

    References:
        Cohen et al. 2022, Appendix G.1.
    """
    sequence = np.random.SeedSequence(seed)
    while True:
        [child] = sequence.spawn(1)
        yield keras.initializers.VarianceScaling(
            scale=1.0,
            mode="fan_in",
            distribution="untruncated_normal",
            seed=int(child.generate_state(1)[0]),
        )
