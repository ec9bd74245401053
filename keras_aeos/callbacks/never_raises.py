"""Methods of a callback that never end a training."""

import functools
from collections.abc import Callable
from typing import Any


def never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """A method of a callback that hands an error to the callback's `_stop_measuring`."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Warning:  # which the user wants to be an error
            raise
        except Exception as error:
            self._stop_measuring(error)

    return guarded
