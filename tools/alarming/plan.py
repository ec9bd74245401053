"""Which trainings there are: a number gives each its network, optimizer, learning rate and so on.

The first 336 numbers contain every combination once, those of small networks first. Those after
them repeat the combinations at other learning rates.
"""

import dataclasses
import itertools
import math

# The smallest first.
GROUPS = (
    ("fully connected", "squared error", "convolutional"),
    ("wide ResNet", "wide ResNet, BatchNorm"),
    ("Transformer, Pre-LN", "Transformer, Post-LN"),
)
NETWORKS = tuple(itertools.chain(*GROUPS))
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
# Seed, warm-up, batch, optimizer and network; what comes last changes fastest.
COMBINATIONS = tuple(
    combination
    for networks in GROUPS
    for combination in itertools.product(SEEDS, WARM_UPS, BATCHES, LEARNING_RATES, networks)
)
NUM_COMBINATIONS = len(COMBINATIONS)
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

    def __str__(self) -> str:
        return f"{self.network}, {self.optimizer} {self.peak:g}, {self.batch} batches"

    def learning_rate(self, update: int) -> float:
        """The learning rate of an update, counted from 1."""
        return self.peak * min(update / self.warm_up, 1.0) if self.warm_up else self.peak


def training(number: int) -> Training:
    """The training of a number.

    >>> training(0)
    Training(number=0, network='fully connected', optimizer='Adam', batch='full', ...
    """
    repetition, place = divmod(number, NUM_COMBINATIONS)
    seed, warm_up, batch, optimizer, network = COMBINATIONS[place]
    settings = len(SEEDS) * len(WARM_UPS) * len(BATCHES)
    repeated = (
        repetition * settings
        + (SEEDS.index(seed) * len(WARM_UPS) + WARM_UPS.index(warm_up)) * len(BATCHES)
        + BATCHES.index(batch)
    )
    kind = NETWORKS.index(network) * len(LEARNING_RATES) + list(LEARNING_RATES).index(optimizer)
    low, high = LEARNING_RATES[optimizer]
    share = (kind / (len(NETWORKS) * len(LEARNING_RATES)) + repeated * _GOLDEN) % 1.0
    peak = float(f"{low * (high / low) ** share:.3g}")
    return Training(number, network, optimizer, batch, warm_up, seed, peak)
