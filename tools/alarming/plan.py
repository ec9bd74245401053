"""Which trainings there are: a number gives each its network, optimizer, learning rate and so on.

The first 336 numbers contain every combination once. Those after them repeat the combinations at
other learning rates. Any number of trainings from the first on is spread evenly.
"""

import dataclasses
import math

NETWORKS = (
    *("fully connected", "squared error", "convolutional"),
    *("wide ResNet", "wide ResNet, BatchNorm"),
    *("Transformer, Pre-LN", "Transformer, Post-LN"),
)
# The smallest and the largest learning rate, from safe to hopeless.
LEARNING_RATES = {
    "Adam": (2e-3, 3e-1),
    "AdamW": (2e-3, 3e-1),
    "RMSprop": (1e-3, 1e-1),
    "SGD": (2e-2, 2.0),
}
BATCHES = ("full", "mini")
WARM_UPS = (0, 100)
SEEDS = (0, 1, 2)
NUM_COMBINATIONS = len(NETWORKS) * len(LEARNING_RATES) * len(BATCHES) * len(WARM_UPS) * len(SEEDS)
# Multiples of it, modulo 1, are spread evenly, however many there are.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        number: Its number, from 0.
        network: Name of the network.
        optimizer: Name of the optimizer of Keras.
        batch: "full", the same examples at every update, or "mini".
        warm_up: Updates in which the learning rate rises linearly.
        seed: Of the initial weights and the order of the examples.
        peak: The learning rate, after the warm-up.
    """

    number: int
    network: str
    optimizer: str
    batch: str
    warm_up: int
    seed: int
    peak: float

    def learning_rate(self, update: int) -> float:
        """The learning rate of an update, counted from 1."""
        return self.peak * min(update / self.warm_up, 1.0) if self.warm_up else self.peak


def training(number: int) -> Training:
    """The training of a number.

    >>> training(0)
    Training(number=0, network='fully connected', optimizer='Adam', batch='full', ...
    """
    rest, place = divmod(number, len(NETWORKS))
    rest, kind = divmod(rest, len(LEARNING_RATES))
    repeated = rest
    rest, batch = divmod(rest, len(BATCHES))
    rest, warm_up = divmod(rest, len(WARM_UPS))
    optimizer = tuple(LEARNING_RATES)[kind]
    low, high = LEARNING_RATES[optimizer]
    offset = (place * len(LEARNING_RATES) + kind) / (len(NETWORKS) * len(LEARNING_RATES))
    share = (offset + repeated * _GOLDEN) % 1.0
    return Training(
        number,
        NETWORKS[place],
        optimizer,
        BATCHES[batch],
        WARM_UPS[warm_up],
        SEEDS[rest % len(SEEDS)],
        float(f"{low * (high / low) ** share:.3g}"),
    )
