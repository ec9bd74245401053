"""The whole configuration of a run, as typed dataclasses.

Hydra merges the YAML files and the command line into these classes, so that a misspelt key or a
wrong type is found before anything else is imported. A class here is one section of the file; a
field's `metadata` holds the condition that its value must meet.
"""

from trainers.schema.checks import check, num_examples
from trainers.schema.datasets import DATASETS, Dataset
from trainers.schema.models import (
    ACTIVATIONS,
    CNN,
    MODELS,
    NORMS,
    FullyConnected,
    Model,
    ResNet50,
    Transformer,
    WideResNet,
)
from trainers.schema.optimizers import (
    AFTER_WARM_UP,
    OPTIMIZERS,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    FrozenAdam,
    GradientDescent,
    HeavyBall,
    Nadam,
    Nesterov,
    Optimizer,
    Padam,
    RMSprop,
    Schedule,
)
from trainers.schema.runs import (
    DEFAULT_QUANTITIES,
    LOSSES,
    QUANTITIES,
    RUNS,
    SOLVERS,
    Config,
    Data,
    Evaluation,
    Monitor,
    Quadratic,
    Stop,
)
from trainers.schema.translation import SECTIONS, Translation, TranslationEvaluation

__all__ = [
    "ACTIVATIONS",
    "AFTER_WARM_UP",
    "CNN",
    "DATASETS",
    "DEFAULT_QUANTITIES",
    "LOSSES",
    "MODELS",
    "NORMS",
    "OPTIMIZERS",
    "QUANTITIES",
    "RUNS",
    "SECTIONS",
    "SOLVERS",
    "AMSGrad",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Config",
    "Data",
    "Dataset",
    "Evaluation",
    "FrozenAdam",
    "FullyConnected",
    "GradientDescent",
    "HeavyBall",
    "Model",
    "Monitor",
    "Nadam",
    "Nesterov",
    "Optimizer",
    "Padam",
    "Quadratic",
    "RMSprop",
    "ResNet50",
    "Schedule",
    "Stop",
    "Transformer",
    "Translation",
    "TranslationEvaluation",
    "WideResNet",
    "check",
    "num_examples",
]
