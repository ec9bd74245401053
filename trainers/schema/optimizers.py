"""The `optimizer` sections, read from the constructors of the optimizers.

A section has the arguments, types and defaults of the optimizer's `__init__`, and the conditions of
`keras_aeos/constraints.py`. Importing `keras_aeos` would import TensorFlow, which takes seconds, so
its source is parsed instead.
"""

import ast
import dataclasses
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import MISSING

from trainers.schema.conditions import Condition, above_zero, one_of

# What the annotation of an argument becomes in a section. A schedule of the learning rate has a
# section of its own, and second moments are in a file, which must be named.
_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (bool, int, float, str)},
    **{f"{kind.__name__} | None": kind | None for kind in (bool, int, float, str)},
    "LearningRate": float,
    "SecondMoments | None": str,
}


@dataclasses.dataclass
class Optimizer:
    """Base of every `optimizer` section; the other keys are the optimizer's own arguments."""

    name: str = MISSING
    learning_rate: float = above_zero(MISSING)

    def keeps_first_moment(self) -> bool:
        """Whether the optimizer averages gradients: with a β₁ above 0."""
        return getattr(self, "beta_1", 0.0) > 0

    def keeps_second_moment(self) -> bool:
        """Whether the optimizer averages squared gradients, and adds ε to the root.

        Frozen Adam's second moments are an argument.
        """
        return hasattr(self, "epsilon") and not hasattr(self, "second_moments")


def read_sections(package: Path) -> dict[str, type[Any]]:
    """The sections of the optimizers that a package exports, by the optimizers' names.

    Args:
        package: Directory with the file `constraints.py` and the package `optimizers`.

    Raises:
        TypeError: An argument has a type that no key of a section can have.
    """
    conditions = dict(_conditions(package / "constraints.py"))
    exported = _exported(package / "optimizers" / "__init__.py")
    sections = {}
    for path in sorted((package / "optimizers").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in exported:
                section = _section(node, conditions)
                sections[section.name] = section
    return sections


def _section(optimizer: ast.ClassDef, conditions: dict[str, Condition]) -> type[Any]:
    """A dataclass of the name of the optimizer's class, with its arguments as fields."""
    fields: list[tuple[str, Any, Any]] = []
    for argument, annotation, default in _arguments(optimizer):
        if annotation not in _TYPES:
            raise TypeError(
                f"{optimizer.name}: expected arguments of the types {', '.join(_TYPES)}. "
                f"Received: {argument}: {annotation}"
            )
        kind = _TYPES[annotation]
        if default is None and kind is str:
            default = MISSING
        if argument == "name":
            field = one_of((default,), default)
        elif argument == "learning_rate":
            field = above_zero(default)
        else:
            metadata = {"condition": conditions[argument]} if argument in conditions else {}
            field = dataclasses.field(default=default, metadata=metadata)
        fields.append((argument, kind, field))
    return dataclasses.make_dataclass(optimizer.name, fields, bases=(Optimizer,))


def _arguments(optimizer: ast.ClassDef) -> Iterator[tuple[str, str, Any]]:
    """Name, annotation and default of each argument of `__init__`; without a default MISSING."""
    [signature] = [
        node.args
        for node in optimizer.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    arguments = [*signature.args[1:], *signature.kwonlyargs]
    missing = [None] * (len(signature.args) - 1 - len(signature.defaults))
    defaults = [*missing, *signature.defaults, *signature.kw_defaults]
    for argument, default in zip(arguments, defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "none"
        value = MISSING if default is None else ast.literal_eval(default)
        yield argument.arg, annotation, value


def _exported(path: Path) -> list[str]:
    """The list `__all__` of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def _conditions(path: Path) -> Iterator[tuple[str, Condition]]:
    """The conditions of a file's table `ARGUMENTS`, by the arguments' names."""
    constraints = ModuleType(path.stem)
    SourceFileLoader(path.stem, str(path)).exec_module(constraints)
    for argument, constraint in constraints.ARGUMENTS.items():
        yield argument, Condition(constraint.expected, constraint.holds)


OPTIMIZERS = read_sections(Path(__file__).resolve().parents[2] / "keras_aeos")
