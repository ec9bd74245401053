"""The values that arguments of the public classes and functions take, each stated once.

An argument's name means the same wherever it occurs, so one table serves every constructor and
function. Error messages and the invalid values of the tests both come from it. The standard
library alone: the trainers read this file without importing TensorFlow.
"""

import dataclasses
import math
import numbers
import os
from collections.abc import Callable, Iterable
from typing import Any

AUTO = "auto"
SOLVERS = ("lanczos", "power")


@dataclasses.dataclass(frozen=True)
class Constraint:
    """The values that an argument takes.

    Attributes:
        expected: The values in words; completes "must be ...".
        holds: Whether a value of any type is one of them.
        invalid: Values that are not, for the tests: beside each bound, and of another type.
    """

    expected: str
    holds: Callable[[Any], bool]
    invalid: tuple[Any, ...]

    def or_none(self) -> "Constraint":
        """The same values, and None."""
        return Constraint(
            f"None or {self.expected}",
            lambda value: value is None or self.holds(value),
            tuple(value for value in self.invalid if value is not None),
        )


def check(**arguments: Any) -> None:
    """Check arguments, given by name, against `ARGUMENTS`.

    Raises:
        ValueError: If a value is not one that its argument takes.
    """
    for name, value in arguments.items():
        constraint = ARGUMENTS[name]
        if not constraint.holds(value):
            raise ValueError(f"`{name}` must be {constraint.expected}. Received: {name}={value!r}")


def _number(expected: str, holds: Callable[[float], bool], *invalid: float) -> Constraint:
    return Constraint(
        expected,
        lambda value: _is_number(value) and math.isfinite(value) and holds(value),
        (*invalid, math.nan, math.inf, "0.5", None, True),
    )


def _integer(expected: str, holds: Callable[[int], bool], *invalid: int) -> Constraint:
    return Constraint(
        expected,
        lambda value: _is_integer(value) and holds(value),
        (*invalid, 1.5, "1", None, True),
    )


def _choice(*choices: str) -> Constraint:
    expected = " or ".join(repr(choice) for choice in choices)
    return Constraint(expected, lambda value: value in choices, ("newton", "", 1, None))


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_update_freq(value: Any) -> bool:
    if isinstance(value, str):
        return value == AUTO
    if isinstance(value, Iterable):
        steps = list(value)
        return bool(steps) and all(_is_integer(step) and step >= 1 for step in steps)
    return _is_integer(value) and value >= 1


_COUNT = _integer("a positive integer", lambda value: value >= 1, 0, -1)
_DECAY = _number("a number in [0, 1)", lambda value: 0 <= value < 1, -0.1, 1.0)
_SHARE = _number("a number between 0 and 1", lambda value: 0 < value < 1, 0.0, 1.0, -0.1)
_POSITIVE = _number("a positive number", lambda value: value > 0, 0.0, -1.0)
_NOT_NEGATIVE = _number("a number of at least 0", lambda value: value >= 0, -1e-9)
_FLAG = Constraint("True or False", lambda value: isinstance(value, bool), (None, "yes", 0, 1.0))
_PATH = Constraint(
    "a path", lambda value: isinstance(value, (str, os.PathLike)), (1, b"logs", None, ())
)

# By the name of the argument. A learning rate may also be a schedule or a callable.
ARGUMENTS: dict[str, Constraint] = {
    # Optimizers
    "learning_rate": Constraint(
        "a number of at least 0, a LearningRateSchedule or a callable",
        lambda value: not _is_number(value) or _NOT_NEGATIVE.holds(value),
        (-1e-9, math.nan, math.inf),
    ),
    "beta_1": _DECAY,
    "beta_2": _DECAY,
    "epsilon": _NOT_NEGATIVE,
    "bias_correction": _FLAG,
    "ema": _FLAG,
    "weight_decay": _NOT_NEGATIVE,
    "exponent": _number("a number in [0, 0.5]", lambda value: 0 <= value <= 0.5, -0.1, 0.6),
    "decay_exponent": _POSITIVE,
    "clip_threshold": _POSITIVE.or_none(),
    "parameter_scaling": _FLAG,
    # Measurements
    "num_eigenvalues": _COUNT,
    "batch_size": _COUNT.or_none(),
    "probe_size": _COUNT.or_none(),
    "max_overhead": _SHARE.or_none(),
    "update_freq": Constraint(
        f"a positive integer, {AUTO!r} or a collection of positive integers, the numbers of "
        "updates after which to measure",
        _is_update_freq,
        (0, -5, 1.5, True, None, "epoch", (), [3, 0], [1.5]),
    ),
    "log_dir": _PATH.or_none(),
    "check": _FLAG,
    "loss": Constraint(
        "a function of the model and a batch, or None",
        lambda value: value is None or callable(value),
        ("mse", 1, True),
    ),
    "optimizer": Constraint(
        "a keras.optimizers.Optimizer, the object that `train_step` applies, or None",
        lambda value: value is None or hasattr(value, "apply_gradients"),
        ("adam", 1, True),
    ),
    "action": Constraint(
        "'warn', 'stop' or a function of an Alarm",
        lambda value: value in ("warn", "stop") or callable(value),
        ("warning", "", None, True, 1),
    ),
    "monitor": Constraint(
        "an AEoSMonitor or None",
        lambda value: value is None or (hasattr(value, "history") and hasattr(value, "measure")),
        ("monitor", 1, True),
    ),
    "factor": _POSITIVE,
    "share": _SHARE,
    "step": _COUNT,
    "seed": _integer("an integer", lambda value: True),
    # Solvers
    "solver": Constraint(
        "'lanczos', 'power' or an Eigensolver",
        lambda value: value in SOLVERS,
        ("lanzcos", "", 1, None),
    ),
    "method": _choice(*SOLVERS),
    "rtol": _SHARE.or_none(),
    "max_hvps": _COUNT.or_none(),
}
