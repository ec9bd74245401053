"""The check of a complete configuration, beyond the types of its values."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from trainers.errors import UserError
from trainers.schema.conditions import Condition
from trainers.schema.runs import Run


def check(run: Run) -> None:
    """Check every value by itself, then what the run and its sections ask of them together.

    Raises:
        UserError: The first value that can't be used, with what was expected.
    """
    for key, value, condition in _settings(run):
        if value is not None and not condition.holds(value):
            hint = condition.hint(value)
            raise UserError(f"{key}: expected {condition.expected}.{hint} Received: {key}={value}")
    run.check()


def _settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Condition]]:
    for item in dataclasses.fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
        elif "condition" in item.metadata:
            yield key, value, item.metadata["condition"]
