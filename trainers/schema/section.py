"""The base of the sections that belong to a task: `data`, `model` and `evaluation`."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass
class Section:
    """Keys of one task; the three sections of a run must be of the same task.

    Attributes:
        task: The module under `trainers/tasks/` that reads the section.
    """

    task: ClassVar[str]

    def check(self, config: Any) -> None:
        """Check what the conditions on single values don't say.

        Args:
            config: The `Config` that the section is part of.

        Raises:
            UserError: A value can't be used, with what was expected.
        """
