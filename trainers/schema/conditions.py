"""Conditions that the values of a configuration must meet, and fields that carry them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Condition:
    """A test of one value, and the values that pass it in words."""

    expected: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def hint(self, value: Any) -> str:
        """The choice closest to a value, or to the first wrong name of a list."""
        names = value if isinstance(value, list) else [value]
        for name in names:
            if name not in self.choices:
                near = get_close_matches(str(name), self.choices, n=1)
                return f" Did you mean '{near[0]}'?" if near else ""
        return ""


# A path that a file system can hold: none has a NUL, and a line break would break messages.
PATH = Condition("a path", lambda value: bool(value) and value.isprintable() and len(value) < 4096)


def setting(default: Any, condition: Condition) -> Any:
    """A field with a default and the condition that its value must meet."""
    return field(default=default, metadata={"condition": condition})


def above_zero(default: Any) -> Any:
    """A field for a finite number above 0."""
    return setting(
        default, Condition("a finite number above 0", lambda value: 0 < value < math.inf)
    )


def finite(default: Any) -> Any:
    """A field for a finite number."""
    return setting(default, Condition("a finite number", math.isfinite))


def at_least(minimum: int, default: Any) -> Any:
    """A field for a number of at least `minimum`."""
    return setting(default, Condition(f"{minimum} or more", lambda value: value >= minimum))


def between(minimum: int, maximum: int, default: Any) -> Any:
    """A field for a number from `minimum` to `maximum`."""
    condition = Condition(
        f"{minimum} or more, at most {maximum}", lambda value: minimum <= value <= maximum
    )
    return setting(default, condition)


def fraction(default: Any) -> Any:
    """A field for a number in [0, 1)."""
    return setting(default, Condition("a number in [0, 1)", lambda value: 0 <= value < 1))


def one_of(choices: tuple[str, ...], default: Any) -> Any:
    """A field for one of several names."""
    condition = Condition(f"one of {', '.join(choices)}", lambda value: value in choices, choices)
    return setting(default, condition)
