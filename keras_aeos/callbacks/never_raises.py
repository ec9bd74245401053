"""Methods of a callback that never end the training."""

import functools
from collections.abc import Callable
from typing import Any


def never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """A method of a callback that warns in place of an error, by its `_stop_measuring`."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Warning:  # which the user wants to be an error
            raise
        except Exception as error:
            self._stop_measuring(error)

    return guarded
