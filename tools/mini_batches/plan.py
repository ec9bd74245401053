"""Which trainings there are: a number gives each its optimizer, network and so on."""

import dataclasses
import itertools

from keras_aeos.stability import Momentum

BETA = 0.9


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer with its learning rates.

    Attributes:
        momentum: Its momentum.
        rates: The learning rates, the smallest first.
    """

    momentum: Momentum
    rates: tuple[float, float, float]


OPTIMIZERS = {
    "Adam": Optimizer(Momentum.heavy_ball(BETA, ema=True), (3e-3, 1e-2, 3e-2)),
    "SGD with momentum": Optimizer(Momentum.heavy_ball(BETA), (0.1, 0.3, 1.0)),
    "AdamW": Optimizer(Momentum.heavy_ball(BETA, ema=True), (3e-3, 1e-2, 3e-2)),
    "RMSprop": Optimizer(Momentum.none(), (1e-3, 3e-3, 1e-2)),
    "SGD with Nesterov": Optimizer(Momentum.nesterov(BETA), (0.1, 0.3, 1.0)),
    "SGD": Optimizer(Momentum.none(), (0.3, 1.0, 3.0)),
}
NETWORKS = ("fully connected", "convolutional", "transformer")
BATCH_SIZES = (8, 32, 128, 512)
NUM_EXAMPLES = 512
# Optimizer, network, place of the learning rate and batch size; what comes last changes fastest.
COMBINATIONS = tuple(itertools.product(OPTIMIZERS, NETWORKS, range(3), BATCH_SIZES))


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        number: Its number, from 0.
        network: Name of the network.
        optimizer: Name of the optimizer.
        learning_rate: Of all updates.
        batch_size: Examples of an update.
    """

    number: int
    network: str
    optimizer: str
    learning_rate: float
    batch_size: int

    def __str__(self) -> str:
        return f"{self.network}, {self.optimizer} {self.learning_rate:g}, batch {self.batch_size}"


def training(number: int) -> Training:
    """The training of a number.

    >>> print(training(0))
    fully connected, Adam 0.003, batch 8
    """
    optimizer, network, place, batch_size = COMBINATIONS[number]
    return Training(number, network, optimizer, OPTIMIZERS[optimizer].rates[place], batch_size)
