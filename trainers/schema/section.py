"""The base of the sections that belong to a task: `data`, `model` and `evaluation`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from trainers.schema.runs import Config


@dataclass
class Section:
    """Keys of one task; the three sections of a run must be of the same task.

    Attributes:
        task: The module under `trainers/tasks/` that reads the section.
    """

    task: ClassVar[str]

    def check(self, config: "Config") -> None:
        """Check what the conditions on single values don't say.

        Raises:
            UserError: A value can't be used, with what was expected.
        """
