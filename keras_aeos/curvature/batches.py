"""The data of a curvature measurement: micro-batches that can be iterated over repeatedly."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos import constraints
from keras_aeos.curvature.device_memory import is_host, room

# Tensors, arrays or specs in nested lists, tuples and dictionaries; None marks an absent part.
Nest = Any

DEFAULT_BATCH_SIZE = 1024
# The number of a micro-batch, and its tensors.
_Batch = tuple[int, list[tf.Tensor]]


class MicroBatches:
    """A re-iterable sequence of micro-batches ``(x, y, sample_weight)``.

    ``x``, ``y`` and ``sample_weight`` are tensors, (nested) lists, tuples or dictionaries of
    tensors, or None. Iteration yields one micro-batch at a time, as a flat list of its tensors.

    Args:
        batches: A re-iterable of micro-batches.
        spec: Common structure of the micro-batches, a nest of `tf.TypeSpec` and None.
        streamed: Whether the micro-batches come from a pipeline, so that the host's memory never
            holds all of them. False (default) for those that are in memory anyway.
        num_pieces: Number of consecutive micro-batches that were cut from one batch, 1 by default.
    """

    def __init__(
        self, batches: Iterable[Nest], spec: Nest, streamed: bool = False, num_pieces: int = 1
    ) -> None:
        self.spec = spec
        self.streamed = streamed
        self.num_pieces = num_pieces
        self._batches = batches
        self._places: list[str | None] = []
        self._resident: list[_Batch] = []
        self._rooms: dict[str, int] = {}
        self._all_resident = False

    def __iter__(self) -> Iterator[list[tf.Tensor]]:
        return self._fetched(0)

    def on(self, places: Sequence[str | None], begin: int = 0) -> Generator[_Batch]:
        """The micro-batches from the `begin`-th one here on, each on its device, with its number.

        Number b belongs on the device ``places[b % len(places)]``. Where that is None it is left
        out, because another process has it.

        The first ones, as many as fit into the `room` of their devices, are brought there once and
        stay. The others are fetched anew, each while the one before is in use.
        """
        if list(places) != self._places:
            self.release()
            self._places = list(places)
            devices = [place for place in places if place is not None]
            for device in devices:
                # The devices of a host share its memory.
                num_sharing = len(devices) if is_host(device) else 1
                never = self.streamed and is_host(device)
                self._rooms[device] = 0 if never else room(device) // num_sharing
        yield from self._resident[begin:]
        if self._all_resident:
            return
        position = max(begin, len(self._resident))
        fetched = self._placed(position)
        for number, leaves in fetched if all(map(is_host, self._rooms)) else _one_ahead(fetched):
            self._keep(position, number, leaves)
            yield number, leaves
            position += 1
        self._all_resident = position == len(self._resident)

    def release(self) -> None:
        """Let no micro-batches stay on a device."""
        self._places, self._rooms = [], {}
        self._resident, self._all_resident = [], False

    def _keep(self, position: int, number: int, leaves: list[tf.Tensor]) -> None:
        """Let a micro-batch stay if it follows those that do, and fits beside them."""
        device = self._places[number % len(self._places)]
        if position != len(self._resident) or device is None or self._rooms[device] <= 0:
            return
        self._rooms[device] -= sum(leaf.dtype.size * leaf.shape.num_elements() for leaf in leaves)
        if self._rooms[device] >= 0:
            self._resident.append((number, leaves))

    def _placed(self, position: int) -> Iterator[_Batch]:
        """The micro-batches from the `position`-th one here on, on their devices."""
        here = [index for index, place in enumerate(self._places) if place is not None]
        rounds, index = divmod(position, len(here))
        begin = rounds * len(self._places) + here[index]
        for number, leaves in enumerate(self._fetched(begin), begin):
            place = self._places[number % len(self._places)]
            if place is not None:
                yield number, moved(leaves, place)

    def _fetched(self, begin: int) -> Iterator[list[tf.Tensor]]:
        """The micro-batches from number `begin` on, as they come."""
        given: Any = self._batches
        batches: Iterable[Nest]
        if isinstance(given, tf.data.Dataset):
            batches = given.skip(begin) if begin else given
        elif hasattr(given, "__getitem__"):
            batches = (given[index] for index in range(begin, len(given)))
        else:
            batches = itertools.islice(given, begin, None)
        for batch in batches:
            yield flatten(keras.utils.unpack_x_y_sample_weight(batch))


def moved(leaves: Sequence[tf.Tensor], device: str) -> list[tf.Tensor]:
    """Tensors on a device."""
    with tf.device(device):
        return [leaf if leaf.device == device else tf.identity(leaf) for leaf in leaves]


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Fetch each micro-batch in a thread of its own while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def from_data(data: Any, batch_size: int | None = None) -> MicroBatches:
    """Micro-batches from a user's `data`.

    Args:
        data: A tuple ``(x, y)`` or ``(x, y, sample_weight)`` of arrays or nests of arrays, with one
            row per example. Or a finite `tf.data.Dataset` or `keras.utils.PyDataset` of batches
            that yields the same batches at each iteration.
        batch_size: Integer or None. Rows per micro-batch, for arrays only; None (default) means
            `DEFAULT_BATCH_SIZE`.

    Returns:
        A `MicroBatches`.

    Raises:
        TypeError: If `data` is of another type.
        ValueError: If `data` is empty, infinite or of unequal lengths, or if `batch_size` is given
            with a data set, which has its own batches.
    """
    constraints.check(batch_size=batch_size)
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        if batch_size is not None:
            raise ValueError(
                "`batch_size` applies to arrays only; a data set is measured in its own batches. "
                "Omit `batch_size` or batch the data set differently. "
                f"Received: batch_size={batch_size}"
            )
        if isinstance(data, tf.data.Dataset):
            return _from_dataset(data)
        return from_list(_PyDatasetBatches(data))
    if isinstance(data, tuple) and 1 <= len(data) <= 3:
        return _from_arrays(data, batch_size or DEFAULT_BATCH_SIZE)
    raise TypeError(
        "`data` must be a tuple of arrays (x, y) or (x, y, sample_weight), a tf.data.Dataset or a "
        "keras.utils.PyDataset. A measurement iterates over it repeatedly, as a generator cannot. "
        f"Received: data of type {type(data).__name__}"
        + (f" and length {len(data)}" if isinstance(data, tuple) else "")
    )


def from_list(batches: "Sequence[Nest] | _PyDatasetBatches") -> MicroBatches:
    """Micro-batches from a sized sequence of batches ``x``, ``(x, y)`` or ``(x, y, weights)``."""
    if isinstance(batches, _PyDatasetBatches) and batches.endless:
        raise ValueError(
            "`data` must be finite, because a measurement iterates over all of it. Give the data "
            "set a `num_batches` or `__len__`. Received: an infinite keras.utils.PyDataset"
        )
    if len(batches) == 0:
        raise ValueError("`data` must contain at least one batch. Received: data without batches")
    spec = None
    for batch in batches:
        batch_spec = spec_of(keras.utils.unpack_x_y_sample_weight(batch))
        spec = batch_spec if spec is None else tf.nest.map_structure(_common, spec, batch_spec)
    return MicroBatches(batches, spec, streamed=isinstance(batches, _PyDatasetBatches))


def common_spec(one: Any, other: Any) -> Any:
    """The structure of batches of either kind: sizes that differ are left open."""
    return tf.nest.map_structure(_common, one, other)


def smaller(given: MicroBatches, num_rows: int) -> MicroBatches | None:
    """The same examples in micro-batches of at most `num_rows`; None if they can't be cut."""
    return _cut(given, lambda size: [*range(0, size, num_rows), size])


def split(given: MicroBatches, num_pieces: int) -> MicroBatches | None:
    """The same examples, each batch cut evenly into `num_pieces`, or into as many as it has rows.

    None if they can't be cut.
    """

    def bounds(size: int) -> list[int]:
        num = max(1, min(num_pieces, size))
        return [-(-size * piece // num) for piece in range(num + 1)]

    return _cut(given, bounds, num_pieces)


def _cut(
    given: MicroBatches, bounds: Callable[[int], list[int]], num_pieces: int = 1
) -> MicroBatches | None:
    specs = parts(given.spec)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank for spec in specs):
        return None

    def piece(spec: tf.TensorSpec | None) -> tf.TensorSpec | None:
        if spec is None:
            return None
        size, *rest = spec.shape
        equal = size is not None and num_pieces > 1 and size % num_pieces == 0
        return tf.TensorSpec((size // num_pieces if equal else None, *rest), spec.dtype)

    spec = tf.nest.map_structure(piece, given.spec)
    return MicroBatches(_Pieces(given, bounds), spec, given.streamed, num_pieces)


def flatten(batch: Nest) -> list[Any]:
    """The tensors of a nest, without its Nones; sparse and ragged ones as their components."""
    return tf.nest.flatten(parts(batch), expand_composites=True)


def unflatten(spec: Nest, tensors: Iterable[tf.Tensor]) -> Nest:
    """Inverse of `flatten`, for a batch with the structure `spec`."""
    remaining = iter(tensors)

    def packed(part: tf.TypeSpec | None) -> Any:
        if part is None:
            return None
        components = tf.nest.flatten(part, expand_composites=True)
        return tf.nest.pack_sequence_as(
            part, list(itertools.islice(remaining, len(components))), expand_composites=True
        )

    return tf.nest.map_structure(packed, spec)


def parts(batch: Nest) -> list[Any]:
    """The parts of a nest, without its Nones; a sparse or ragged tensor is one part."""
    return [part for part in tf.nest.flatten(batch) if part is not None]


def spec_of(batch: Nest) -> Nest:
    """The nest of `tf.TypeSpec` and None of a batch."""
    return tf.nest.map_structure(lambda t: None if t is None else tf.type_spec_from_value(t), batch)


def num_rows(batch: Nest) -> tf.Tensor:
    """Number of examples of a batch."""
    part = parts(batch)[0]
    if isinstance(part, tf.RaggedTensor):
        return tf.cast(part.nrows(), tf.int32)
    if isinstance(part, tf.SparseTensor):
        return tf.cast(part.dense_shape[0], tf.int32)
    return tf.shape(part)[0]


def _from_arrays(data: Nest, batch_size: int) -> MicroBatches:
    arrays = tf.nest.map_structure(_as_array, keras.utils.unpack_x_y_sample_weight(data))
    lengths = {len(array) for array in parts(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "All arrays in `data` must have the same positive number of rows. "
            f"Received: numbers of rows {sorted(lengths)}"
        )
    (num_rows,) = lengths
    batches = _ArrayBatches(arrays, num_rows, batch_size)
    rows = None if num_rows > batch_size and num_rows % batch_size else min(num_rows, batch_size)
    spec = tf.nest.map_structure(
        lambda a: None if a is None else tf.TensorSpec((rows, *a.shape[1:]), _dtype(a)), arrays
    )
    return MicroBatches(batches, spec)


def _from_dataset(dataset: tf.data.Dataset) -> MicroBatches:
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must be a finite data set, because a measurement iterates over all of it. "
            "Omit `repeat()` or limit the data set with `dataset.take(n)`. "
            "Received: an infinite tf.data.Dataset"
        )
    spec = dataset.element_spec
    return MicroBatches(
        dataset,
        keras.utils.unpack_x_y_sample_weight(tuple(spec) if isinstance(spec, list) else spec),
        streamed=True,
    )


def _common(first: tf.TypeSpec | None, second: tf.TypeSpec | None) -> tf.TypeSpec | None:
    if first is None or second is None:
        return first
    return first.most_specific_common_supertype([second])


def _as_array(leaf: Any) -> Any:
    """Keep None and objects that slice like arrays; convert others, such as data frames."""
    if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor) or hasattr(leaf, "tocsr"):
        raise TypeError(
            "Sparse and ragged `data` can't be cut into micro-batches. Give them as a "
            "tf.data.Dataset of batches: tf.data.Dataset.from_tensor_slices((x, y)).batch(256). "
            f"Received: data with a {type(leaf).__name__}"
        )
    if leaf is None or (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return leaf
    return np.asarray(leaf)


def _dtype(array: Any) -> tf.DType:
    """The dtype that `fit` feeds: Keras's float type for float64 arrays."""
    dtype = tf.as_dtype(array.dtype)
    return tf.as_dtype(keras.config.floatx()) if dtype == tf.float64 else dtype


class _Numbered(ABC):
    """Micro-batches that are made one at a time, by their number."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Nest: ...

    def __iter__(self) -> Iterator[Nest]:
        return (self[index] for index in range(len(self)))


class _ArrayBatches(_Numbered):
    """Consecutive slices of arrays, converted to tensors one at a time."""

    def __init__(self, arrays: Nest, num_rows: int, batch_size: int) -> None:
        self._arrays, self._num_rows, self._batch_size = arrays, num_rows, batch_size

    def __len__(self) -> int:
        return -(-self._num_rows // self._batch_size)

    def __getitem__(self, index: int) -> Nest:
        rows = slice(index * self._batch_size, (index + 1) * self._batch_size)
        return tf.nest.map_structure(
            lambda a: (
                None
                if a is None
                else tf.convert_to_tensor(
                    np.asarray(a[rows]).astype(_dtype(a).as_numpy_dtype, copy=False)
                )
            ),
            self._arrays,
        )


class _PyDatasetBatches(_Numbered):
    """The batches of a `keras.utils.PyDataset`, converted to tensors one at a time."""

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._dataset = dataset

    @property
    def endless(self) -> bool:
        """Whether the data set states no number of batches."""
        return self._dataset.num_batches is None

    def __len__(self) -> int:
        return self._dataset.num_batches or 0

    def __getitem__(self, index: int) -> Nest:
        return tf.nest.map_structure(
            lambda a: None if a is None else tf.convert_to_tensor(a, _dtype(_as_array(a))),
            keras.utils.unpack_x_y_sample_weight(self._dataset[index]),
        )


class _Pieces:
    """Micro-batches cut into pieces, between the `bounds` of their number of rows."""

    def __init__(self, given: MicroBatches, bounds: Callable[[int], list[int]]) -> None:
        self._given, self._bounds = given, bounds

    def __iter__(self) -> Iterator[Nest]:
        for tensors in self._given:
            for begin, end in itertools.pairwise(self._bounds(tensors[0].shape[0])):
                yield unflatten(self._given.spec, [t[begin:end] for t in tensors])
