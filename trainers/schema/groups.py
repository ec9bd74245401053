"""The sections that a file chooses among, by group and by the name under `schema/GROUP/`."""

from trainers.schema import images, translation
from trainers.schema.optimizers import OPTIMIZERS

# Each module has the sections of one task.
_TASKS = (images, translation)

GROUPS: dict[str, dict[str, type]] = {
    group: {k: v for task in _TASKS for k, v in task.SECTIONS.get(group, {}).items()}
    for group in ("model", "data", "evaluation")
} | {"optimizer": OPTIMIZERS}
