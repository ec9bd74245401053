"""The whole configuration of a run, as typed dataclasses.

Hydra merges the YAML files and the command line into these classes, so that a misspelt key or a
wrong type is found before anything else is imported. A class here is one section of the file; a
field's `metadata` holds the condition that its value must meet, and a section's `check` tests what
concerns several values.
"""

from trainers.schema.checks import check
from trainers.schema.datasets import DATASETS, Dataset
from trainers.schema.groups import GROUPS
from trainers.schema.images import (
    ACTIVATIONS,
    CNN,
    Data,
    Evaluation,
    FullyConnected,
    Model,
    ResNet50,
    WideResNet,
    num_examples,
)
from trainers.schema.optimizers import OPTIMIZERS, Optimizer
from trainers.schema.runs import (
    DEFAULT_QUANTITIES,
    LOSSES,
    QUANTITIES,
    RUNS,
    SOLVERS,
    STRATEGIES,
    Checkpoint,
    Config,
    Monitor,
    Quadratic,
    Run,
    Schedule,
    Stop,
)
from trainers.schema.translation import NORMS, Transformer, Translation, TranslationEvaluation

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "DATASETS",
    "DEFAULT_QUANTITIES",
    "GROUPS",
    "LOSSES",
    "NORMS",
    "OPTIMIZERS",
    "QUANTITIES",
    "RUNS",
    "SOLVERS",
    "STRATEGIES",
    "Checkpoint",
    "Config",
    "Data",
    "Dataset",
    "Evaluation",
    "FullyConnected",
    "Model",
    "Monitor",
    "Optimizer",
    "Quadratic",
    "ResNet50",
    "Run",
    "Schedule",
    "Stop",
    "Transformer",
    "Translation",
    "TranslationEvaluation",
    "WideResNet",
    "check",
    "num_examples",
]
