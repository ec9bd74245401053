"""Which trainings there are: a number gives each its task, optimizer, warm-up and so on.

They come in blocks of a task, an optimizer and a seed, the quickest tasks first, so that any number
of whole blocks makes a table. The constant of `keras_aeos.CurvatureWarmup` was chosen on `TUNED`.
"""

import dataclasses
import itertools

NUM_UPDATES = 300
# Name of the network, and whether its batch is full.
TASKS = {
    "fully connected, mini-batch": ("fully connected", False),
    "fully connected, full batch": ("fully connected", True),
    "convolutional": ("convolutional", False),
    "Transformer, Pre-LN": ("Transformer, Pre-LN", False),
    "Transformer, Post-LN": ("Transformer, Post-LN", False),
    "wide ResNet, BatchNorm": ("wide ResNet, BatchNorm", False),
}
_QUICK, _SLOW = list(TASKS)[:3], list(TASKS)[3:]
TUNED = tuple(_QUICK[:2])
OPTIMIZERS = ("Adam", "AdamW")
SEEDS = (0, 1, 2)
CURVATURE, GI_ADAM = "curvature", "GI-Adam"
# Shares of the updates in which the learning rate rises linearly.
LINEAR = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
WARM_UPS: tuple[float | str, ...] = (CURVATURE, *LINEAR, GI_ADAM)
# A factor of two apart, from safe to hopeless.
TARGETS = tuple(8e-3 * 2.0**power for power in range(6))
# Task, optimizer and seed.
BLOCKS = tuple(
    (task, optimizer, seed)
    for optimizer in OPTIMIZERS
    for tasks, seeds in (
        (_QUICK, (0,)),
        (_SLOW[:1], (0,)),
        (_QUICK, (1, 2)),
        (_SLOW[1:], (0,)),
        (_SLOW, (1, 2)),
    )
    for seed, task in itertools.product(seeds, tasks)
)
_IN_BLOCK = tuple(itertools.product(TARGETS, WARM_UPS))
NUM_TRAININGS = len(BLOCKS) * len(_IN_BLOCK)


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        number: Its number, from 0.
        task: Name of the task.
        optimizer: Name of the optimizer of Keras.
        seed: Of the initial weights and the order of the examples.
        target: The largest learning rate, from which it decays.
        warm_up: Share of the updates in which the learning rate rises linearly, `CURVATURE` or
            `GI_ADAM`.
    """

    number: int
    task: str
    optimizer: str
    seed: int
    target: float
    warm_up: float | str

    def __str__(self) -> str:
        return f"{self.task}, {self.optimizer} {self.target:g}, {self.warm_up}, seed {self.seed}"


def training(number: int) -> Training:
    """The training of a number.

    >>> print(training(0))
    fully connected, mini-batch, Adam 0.008, curvature, seed 0
    """
    block, place = divmod(number, len(_IN_BLOCK))
    return Training(number, *BLOCKS[block], *_IN_BLOCK[place])
