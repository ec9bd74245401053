"""A model's training function, with the batches that `fit` feeds it made visible."""

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import parts


class Listener(Protocol):
    """What a `TrainingFunction` calls, around each of its executions."""

    def before_update(self, function: "TrainingFunction") -> None:
        """Called before the execution."""

    def after_update(self) -> None:
        """Called after the execution, also if it raised an error."""

    def after_batch(self, batch: Any, logs: Any) -> None:
        """Called with the last batch ``(x, y, sample_weight)``, None if unseen, and the logs."""


class TrainingFunction:
    """Stands in for the training function of a model and shows its batches to listeners.

    `fit` owns its iterator, so the batches are seen where they are used. The function that Keras
    makes for the model returns the batch beside its logs, and only the logs are passed on. Under a
    strategy the batch is that of all replicas, in their order. With several steps per execution it
    is the last one of the execution.

    The object stays on the model as long as Keras would keep its own function there, so that a
    later `fit` trains with the same trace. It refers weakly to its listeners.

    Args:
        function: Function of an iterator: Keras's own, or one made by `observe`.
        structures: Structures of the batches that `function` returns; None if it returns none.
    """

    def __init__(self, function: Callable[[Any], Any], structures: list[Any] | None) -> None:
        self._function = function
        self._structures = structures
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, iterator: Any) -> Any:
        """Train the next execution's batches and return the logs."""
        listeners = list(self._listeners)
        for listener in listeners:
            listener.before_update(self)
        try:
            result = self._function(iterator)
        finally:
            for listener in listeners:
                listener.after_update()
        batch = None
        if self._structures is not None and _is_observed(result):
            result, seen = result
            ((index, leaves),) = seen.items()
            remaining = iter(leaves)
            batch = tf.nest.map_structure(
                lambda part: None if part is None else next(remaining),
                self._structures[int(index)],
            )
        for listener in listeners:
            if listener in self._listeners:
                listener.after_batch(batch, result)
        return result

    def add(self, listener: Listener) -> None:
        """Call a listener from now on."""
        self._listeners.add(listener)

    def remove(self, listener: Listener) -> None:
        """Call a listener no longer."""
        self._listeners.discard(listener)


def observe(model: keras.Model, retrace: bool) -> TrainingFunction:
    """The model's `TrainingFunction`, put in place if needed.

    Args:
        model: A compiled model.
        retrace: Whether the training function may be made anew, to see its batches. If not, the
            one that the model has is kept, and its batches are not seen.
    """
    if isinstance(model.train_function, TrainingFunction):
        return model.train_function
    structures: list[Any] | None = None
    if retrace:
        structures = []
        own = model.__dict__.get("train_step")
        model.train_step = _observed(model.train_step, structures)
        try:
            model.make_train_function(force=True)
        except Exception:  # a model that makes its function in its own way keeps the one it has
            structures = None
        finally:
            del model.train_step
            if own is not None:
                model.train_step = own
    function = TrainingFunction(model.train_function, structures)
    if model.train_function is not None:
        model.train_function = function
    return function


def _observed(step: Callable[[Any], Any], structures: list[Any]) -> Callable[[Any], Any]:
    """A training step that returns its batch beside its logs."""

    def train_step(data: Any) -> tuple[Any, dict[str, Any]]:
        batch = keras.utils.unpack_x_y_sample_weight(data)
        structure = tf.nest.map_structure(lambda part: part is not None or None, batch)
        if structure not in structures:
            structures.append(structure)
        logs = step(data)
        return logs, {str(structures.index(structure)): _of_all_replicas(tuple(parts(batch)))}

    return train_step


def _is_observed(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)


def _of_all_replicas(leaves: tuple[Any, ...]) -> tuple[Any, ...]:
    """The parts of a batch, joined over the replicas.

    All replicas return one and the same tensor, which Keras passes on. Of different ones it would
    take the mean.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return leaves

    def join(strategy: tf.distribute.Strategy, *leaves: Any) -> tuple[Any, ...]:
        shares = [strategy.experimental_local_results(leaf) for leaf in leaves]
        return tuple(
            tf.sparse.concat(0, share)
            if isinstance(share[0], tf.SparseTensor)
            else tf.concat(share, 0)
            for share in shares
        )

    return context.merge_call(join, args=leaves)
