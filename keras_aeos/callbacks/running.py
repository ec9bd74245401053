"""Whether the training that a callback watches still runs, and its object still lives."""

import itertools
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras


def running_while(callback: keras.callbacks.Callback) -> Callable[[], bool]:
    """A function that says whether the training that now calls `callback` still runs.

    An exception that leaves `fit` calls no callback, and a notebook keeps the objects of `fit`
    alive in its traceback. What tells a training that runs is that a thread executes it.

    Args:
        callback: The callback, to which the function refers weakly.

    Returns:
        The function. It always returns True if no `keras.callbacks.CallbackList` calls the
        callback, as in a loop of the user's own.
    """
    if not _is_called(callback):
        return lambda: True
    reference = weakref.ref(callback)

    def running() -> bool:
        callback = reference()
        return callback is not None and _is_called(callback)

    return running


def weakly(method: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls a method without keeping its object alive; None once it is gone."""
    reference = weakref.WeakMethod(method)

    def call() -> Any:
        alive = reference()
        return None if alive is None else alive()

    return call


def companions(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """The callbacks of the training that now calls `callback`, itself included."""
    return [member for found in _lists_with(callback) for member in found.callbacks]


def put_first(helper: keras.callbacks.Callback, callback: keras.callbacks.Callback) -> None:
    """Have a helper called before the callbacks of the training that now calls `callback`.

    Helpers of the same class keep their order. Without a `keras.callbacks.CallbackList`, as in a
    loop of the user's own, nothing happens.
    """
    for found in list(_lists_with(callback)):
        members = found.callbacks
        if not any(member is helper for member in members):
            alike = list(itertools.takewhile(lambda member: type(member) is type(helper), members))
            # Another list, because the loop that calls `callback` iterates over this one.
            found.callbacks = [*alike, helper, *members[len(alike) :]]


def _is_called(callback: keras.callbacks.Callback) -> bool:
    """Whether a thread executes a function with a `CallbackList` that holds the callback."""
    return any(True for _ in _lists_with(callback))


def _lists_with(
    callback: keras.callbacks.Callback,
) -> Iterator[keras.callbacks.CallbackList]:
    """Each `CallbackList` with the callback, where a thread executes."""
    for frame in sys._current_frames().values():
        for current, _ in traceback.walk_stack(frame):
            for value in list(current.f_locals.values()):
                if issubclass(type(value), keras.callbacks.CallbackList) and any(
                    member is callback for member in value.callbacks
                ):
                    yield value
