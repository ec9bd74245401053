"""What a complete configuration must meet, beyond the types of its values."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from trainers.errors import UserError
from trainers.micro_batches import micro_batch_size
from trainers.schema.conditions import Condition
from trainers.schema.datasets import DATASETS
from trainers.schema.models import Transformer
from trainers.schema.optimizers import FrozenAdam, GradientDescent, HeavyBall
from trainers.schema.runs import Config, Data, Quadratic
from trainers.schema.translation import Translation, TranslationEvaluation


def num_examples(data: Data) -> int:
    """Number of training examples that a `data` section asks for."""
    return DATASETS[data.name].num_examples if data.num_examples is None else data.num_examples


def check(config: Config | Quadratic) -> None:
    """Check every value of a complete configuration.

    Raises:
        UserError: The first value that can't be used, with what was expected.
    """
    for key, value, condition in _settings(config):
        if value is not None and not condition.holds(value):
            hint = condition.hint(value)
            raise UserError(f"{key}: expected {condition.expected}.{hint} Received: {key}={value}")
    if isinstance(config, Quadratic):
        _check_curvature(config)
        _check_moments(config)
    else:
        if isinstance(config.data, Translation):
            _check_translation(config, config.data)
        else:
            _check_examples(config.data, config.monitor.num_examples)
            _check_evaluation(config)
        _check_sections(config)


def _check_examples(data: Data, measured: int | None) -> None:
    available = DATASETS[data.name].num_examples
    wanted = num_examples(data)
    if wanted > available:
        raise UserError(
            f"data.num_examples: expected at most {available}, the size of {data.name}. "
            f"Received: data.num_examples={wanted}"
        )
    if measured is not None and measured > wanted:
        raise UserError(
            f"monitor.num_examples: expected at most {wanted}, the number of training examples. "
            f"Received: monitor.num_examples={measured}"
        )
    if data.batch_size is not None and data.batch_size > wanted:
        raise UserError(
            f"data.batch_size: expected at most {wanted}, the number of training examples; null "
            f"for all of them. Received: data.batch_size={data.batch_size}"
        )
    update = (
        ("data.batch_size", data.batch_size) if data.batch_size else ("data.num_examples", wanted)
    )
    _check_divides(data, *update)
    _check_divides(data, "monitor.num_examples", measured or wanted)


def _check_divides(data: Data, key: str, count: int) -> None:
    try:
        micro_batch_size(count, data.micro_batch_size)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def _check_evaluation(config: Config) -> None:
    for key in ("freq", "loss_threshold"):
        value = getattr(config.evaluation, key)
        if value is not None and not DATASETS[config.data.name].test_split:
            raise UserError(
                f"evaluation.{key}: expected null, because {config.data.name} has no test split. "
                f"Received: evaluation.{key}={value}"
            )


def _check_translation(config: Config, data: Translation) -> None:
    """What can be known before the sentences are read and those that are too long are left out."""
    if data.source == data.target:
        raise UserError(
            "data.source, data.target: expected two languages. "
            f"Received: data.source={data.source}, data.target={data.target}"
        )
    if data.name == "files" and data.data_dir is None:
        raise UserError(
            f"data.data_dir: expected the directory of {data.train_split}.{data.source} and "
            f"{data.train_split}.{data.target}. Received: data.data_dir=null"
        )
    for key, count in (
        ("data.batch_size", data.batch_size),
        ("monitor.num_examples", config.monitor.num_examples),
    ):
        if count is not None:
            _check_divides(data, key, count)


def _check_sections(config: Config) -> None:
    """A model that translates goes with sentences, and no other model does."""
    kinds = {
        "model": isinstance(config.model, Transformer),
        "data": isinstance(config.data, Translation),
        "evaluation": isinstance(config.evaluation, TranslationEvaluation),
    }
    if len(set(kinds.values())) > 1:
        translates, not_so = (
            [key for key, kind in kinds.items() if kind is wanted] for wanted in (True, False)
        )
        raise UserError(
            "model, data, evaluation: expected all of them for translation, as in "
            "configs/transformer.yaml, or none. Received: for translation "
            f"{', '.join(translates)}; not so {', '.join(not_so)}"
        )
    if isinstance(config.model, Transformer):
        if config.loss != "cross_entropy":
            raise UserError(
                f"loss: expected cross_entropy for the transformer. Received: loss={config.loss}"
            )
        if config.model.dim % (2 * config.model.heads):
            raise UserError(
                "model.dim: expected a multiple of twice the number of heads, "
                f"{2 * config.model.heads}. Received: model.dim={config.model.dim}"
            )


def _check_curvature(config: Quadratic) -> None:
    if (config.curvature is None) == (config.edge_ratio is None):
        raise UserError(
            "curvature, edge_ratio: expected a number for one of them and null for the other. "
            f"Received: curvature={_shown(config.curvature)}, "
            f"edge_ratio={_shown(config.edge_ratio)}"
        )


def _check_moments(config: Quadratic) -> None:
    optimizer = config.optimizer
    kept = {
        "first_moment": getattr(optimizer, "beta_1", 0.0) > 0,
        # Frozen Adam's second moment is in the file that it names.
        "second_moment": not isinstance(optimizer, (GradientDescent, HeavyBall, FrozenAdam)),
    }
    for key, has_slot in kept.items():
        value = getattr(config, key)
        if value is not None and not has_slot:
            raise UserError(
                f"{key}: expected null, because {optimizer.name} keeps none that could be set. "
                f"Received: {key}={value}"
            )


def _shown(value: float | None) -> str:
    return "null" if value is None else str(value)


def _settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Condition]]:
    for item in dataclasses.fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
        elif "condition" in item.metadata:
            yield key, value, item.metadata["condition"]
