"""The devices that share a measurement, and how the sums of their parts become one."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from keras_aeos.curvature.batches import MicroBatches, split
from keras_aeos.curvature.device_memory import is_host

_Result = TypeVar("_Result")


class Replicas:
    """The replicas of a model's strategy, each of which measures its share of the examples.

    Of R replicas, number r measures the micro-batches b with ``b mod R = r``, at its own copy of
    the parameters. With ``w_b`` the share of a micro-batch in all examples, a product is

        H v = Σ_r Σ_{b mod R = r} w_b H_b v.

    The vector is copied to each device once, the devices form their parts at the same time, and
    one sum brings them together. All else that is done with vectors is done once, on the first
    device. Of several workers, each measures the share of its own devices, and the sum is one
    all-reduce, so that all of them know the same numbers. They have to measure at the same time,
    on the same data. Without a strategy there is one replica: nothing is copied or added.

    Args:
        model: A Keras model.
        variables: Its parameters.

    Attributes:
        devices: The device of each replica of this process.
        places: The device of every replica, None for those of other workers.

    Raises:
        ValueError: If the strategy trains at several points at the same time.
    """

    def __init__(self, model: keras.Model, variables: Sequence[keras.Variable]) -> None:
        check_strategy(model)
        self._strategy = model.distribute_strategy
        self._synchronised = _synchronised(model)
        self._variables = variables
        self.devices = [_device_of(copy) for copy in self._copies()]
        self.places: list[str | None] = list(self.devices)
        if has_workers(self._strategy):
            self.places = [None] * self._strategy.num_replicas_in_sync
            for number, device in zip(_numbers(self._strategy), self.devices, strict=True):
                self.places[number] = device

    @property
    def alone(self) -> bool:
        """Whether there is just one replica."""
        return len(self.places) == 1

    @property
    def of_workers(self) -> bool:
        """Whether some replicas belong to other workers."""
        return None in self.places

    def index(self, number: int) -> int:
        """Which of `devices` a micro-batch belongs on."""
        return self.devices.index(self.places[number % len(self.places)] or "")

    def has(self, number: int) -> bool:
        """Whether a micro-batch belongs on one of `devices`."""
        return self.places[number % len(self.places)] is not None

    def cut(self, batches: MicroBatches) -> MicroBatches:
        """The batches as the strategy cuts those of training: a micro-batch for each replica.

        They stay whole if a layer takes its statistics over all replicas, and if they can't be cut.
        """
        if self.alone or self._synchronised:
            return batches
        return split(batches, len(self.places)) or batches

    def parameters(self) -> list[list[tf.Tensor]]:
        """The present parameters, those of each device."""
        return [[tf.convert_to_tensor(value) for value in copy] for copy in self._copies()]

    def on(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Compute on one of `devices`."""
        return contextlib.nullcontext() if self.alone else tf.device(self.devices[index])

    def copies(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """A vector on each device."""
        if self.alone:
            return [vector]
        made = []
        for device in self.devices:
            with tf.device(device):
                made.append(tf.identity(vector))
        return made

    def sum(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The sum of the parts of all replicas, given those of `devices`; on the first of them."""
        if self.alone:
            return parts[0]
        with tf.device(self.devices[0]):
            return _all_reduced(self._strategy, parts) if self.of_workers else tf.add_n(parts)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums of numbers of the workers, such as counts."""
        return total(self._strategy, numbers)

    def together(self, call: Callable[[], _Result]) -> _Result:
        """The result of a call that waits for no other worker; if one of them fails, all do.

        A worker that goes on alone would wait for the others forever.
        """
        if not self.of_workers:
            return call()
        error: Exception | None = None
        try:
            result = call()
        except Exception as raised:
            error = raised
        out_of_memory = isinstance(error, tf.errors.ResourceExhaustedError)
        num_failed, num_full = self.total([float(error is not None), float(out_of_memory)])
        if not num_failed:
            return result
        if num_failed == num_full:
            raise tf.errors.ResourceExhaustedError(None, None, "A worker has no memory.") from error
        why = "it failed on another one" if error is None else f"{type(error).__name__}: {error}"
        raise ValueError(f"The measurement ended on all workers: {why}") from error

    def _copies(self) -> list[list[Any]]:
        """The parameters as each device has them, variables of TensorFlow."""
        local = [self._strategy.experimental_local_results(v.value) for v in self._variables]
        return [
            [copies[index % len(copies)] for copies in local]
            for index in range(max(map(len, local)))
        ]


def check_strategy(model: keras.Model) -> None:
    """Raise ValueError if a model's strategy has no single point to measure at."""
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "Under ParameterServerStrategy the workers train at parameters that differ from each "
            "other, so that there is no point at which to measure a curvature. Train under "
            "tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy. "
            f"Received: model={model.name!r} under {type(strategy).__name__}"
        )


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy has replicas in several processes."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return strategy.num_replicas_in_sync > len(_numbers(strategy))


def is_chief(model: keras.Model) -> bool:
    """Whether this process is the one of all workers that writes."""
    strategy = model.distribute_strategy
    return not has_workers(strategy) or 0 in _numbers(strategy)


def of_chief(model: keras.Model, value: float) -> float:
    """The value that the chief has; every worker must call it."""
    if not has_workers(model.distribute_strategy):
        return value
    (found,) = total(model.distribute_strategy, [value if is_chief(model) else 0.0])
    return found


def total(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> list[float]:
    """The sums of numbers of all workers, each of which must call it."""
    if not has_workers(strategy):
        return list(numbers)
    given = tf.constant(numbers, tf.float64)
    others = [tf.zeros_like(given) for _ in _numbers(strategy)[1:]]
    return _all_reduced(strategy, [given, *others]).numpy().tolist()


def _all_reduced(strategy: tf.distribute.Strategy, parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of the parts of all replicas, given those of this process."""
    remaining = iter(parts)
    values = strategy.experimental_distribute_values_from_function(lambda _: next(remaining))
    return strategy.reduce("SUM", values, axis=None)


def _numbers(strategy: tf.distribute.Strategy) -> tuple[int, ...]:
    """The numbers of this process's replicas among all."""
    return strategy.experimental_local_results(
        strategy.experimental_distribute_values_from_function(
            lambda context: context.replica_id_in_sync_group
        )
    )


def _synchronised(model: keras.Model) -> bool:
    """Whether a layer takes its statistics over the examples of all replicas."""
    return any(getattr(layer, "synchronized", False) for layer in model._flatten_layers())


def _device_of(variables: Sequence[Any]) -> str:
    """The device of variables; an accelerator, if any of them is on one."""
    devices = [variable.device for variable in variables]
    return next((device for device in devices if not is_host(device)), devices[0])
