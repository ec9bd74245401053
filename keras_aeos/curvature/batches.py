"""The data a curvature measurement runs over: micro-batches that can be gone through repeatedly."""

import keras
import numpy as np
import tensorflow as tf

DEFAULT_BATCH_SIZE = 1024
# Arrays up to this size are made into tensors once, larger ones anew each time.
_CACHED_BYTES = 2**28


class MicroBatches:
    """A re-iterable sequence of micro-batches ``(x, y, sample_weight)``.

    ``x``, ``y`` and ``sample_weight`` are tensors, (nested) lists, tuples or dictionaries of
    tensors, or None. One micro-batch at a time is in memory.

    Args:
        batches: A re-iterable of micro-batches.
        spec: Their common structure: a nest of `tf.TypeSpec` and None that each of them meets.
    """

    def __init__(self, batches, spec):
        self.spec = spec
        self._batches = batches

    def __iter__(self):
        for batch in self._batches:
            yield flatten(keras.utils.unpack_x_y_sample_weight(batch))


def from_data(data, batch_size=None):
    """Micro-batches of what a user passes as `data`.

    Args:
        data: A tuple ``(x, y)`` or ``(x, y, sample_weight)`` of arrays or nests of arrays with one
            row an example; or a finite `tf.data.Dataset` or `keras.utils.PyDataset` of batches
            which yields the same batches each time it is gone through.
        batch_size: Rows a micro-batch, for arrays only; `DEFAULT_BATCH_SIZE` if None.

    Returns:
        A `MicroBatches`.

    Raises:
        TypeError: If `data` is of another kind.
        ValueError: If `data` is empty, infinite or of unequal lengths, or if `batch_size` is given
            with a data set, which has its own.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
        raise ValueError(
            f"`batch_size` must be a positive integer or None. Received: batch_size={batch_size!r}"
        )
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        if batch_size is not None:
            raise ValueError(
                "`batch_size` is for arrays; a data set is measured in its own batches. Leave it "
                f"out or batch the data set differently. Received: batch_size={batch_size}"
            )
        if isinstance(data, tf.data.Dataset):
            return _from_dataset(data)
        return from_list(_PyDatasetBatches(data))
    if isinstance(data, tuple) and 1 <= len(data) <= 3:
        return _from_arrays(data, batch_size or DEFAULT_BATCH_SIZE)
    raise TypeError(
        "`data` must be a tuple of arrays (x, y) or (x, y, sample_weight), a tf.data.Dataset or a "
        "keras.utils.PyDataset: it is gone through once for each product, which a generator does "
        f"not allow. Received: data of type {type(data).__name__}"
        + (f" and length {len(data)}" if isinstance(data, tuple) else "")
    )


def from_list(batches):
    """Micro-batches from a sized sequence of batches ``x``, ``(x, y)`` or ``(x, y, weights)``."""
    if len(batches) == 0:
        raise ValueError("`data` must hold at least one batch. Received: none")
    spec = None
    for batch in batches:
        batch_spec = tf.nest.map_structure(
            lambda t: None if t is None else tf.type_spec_from_value(t),
            keras.utils.unpack_x_y_sample_weight(batch),
        )
        spec = batch_spec if spec is None else tf.nest.map_structure(_common, spec, batch_spec)
    return MicroBatches(batches, spec)


def flatten(batch):
    """The tensors of a nest, without its Nones."""
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def unflatten(spec, leaves):
    """Inverse of `flatten` for a batch of the structure `spec`."""
    leaves = iter(leaves)
    return tf.nest.map_structure(lambda s: None if s is None else next(leaves), spec)


def _from_arrays(data, batch_size):
    arrays = tf.nest.map_structure(_as_array, keras.utils.unpack_x_y_sample_weight(data))
    lengths = {len(array) for array in flatten(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "All arrays in `data` must have the same, positive number of rows. "
            f"Received: numbers of rows {sorted(lengths)}"
        )
    (num_rows,) = lengths
    batches = _ArrayBatches(arrays, num_rows, batch_size)
    rows = None if num_rows > batch_size and num_rows % batch_size else min(num_rows, batch_size)
    spec = tf.nest.map_structure(
        lambda a: None if a is None else tf.TensorSpec((rows, *a.shape[1:]), _dtype(a)), arrays
    )
    return MicroBatches(batches, spec)


def _from_dataset(dataset):
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must be a finite data set: a measurement goes through all of it. Use "
            "`dataset.take(n)` before `repeat()`. Received: an infinite tf.data.Dataset"
        )
    spec = dataset.element_spec
    return MicroBatches(
        dataset,
        keras.utils.unpack_x_y_sample_weight(tuple(spec) if isinstance(spec, list) else spec),
    )


def _common(first, second):
    if first is None or second is None:
        return first
    return first.most_specific_common_supertype([second])


def _as_array(leaf):
    """Arrays, and what can be sliced like them, as they are; a data frame, say, converted."""
    if leaf is None or (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return leaf
    return np.asarray(leaf)


def _dtype(array):
    """The dtype `fit` feeds: float64 arrays arrive in Keras' float type."""
    dtype = tf.as_dtype(array.dtype)
    return tf.as_dtype(keras.config.floatx()) if dtype == tf.float64 else dtype


class _ArrayBatches:
    """Consecutive slices of arrays, made into tensors one at a time."""

    def __init__(self, arrays, num_rows, batch_size):
        self._arrays, self._num_rows, self._batch_size = arrays, num_rows, batch_size
        sizes = [int(np.prod(a.shape)) * _dtype(a).size for a in flatten(arrays)]
        self._cacheable = sum(sizes) <= _CACHED_BYTES
        self._cache: list = []

    def __iter__(self):
        if not self._cacheable:
            return self._slices()
        if not self._cache:
            self._cache = list(self._slices())
        return iter(self._cache)

    def _slices(self):
        for begin in range(0, self._num_rows, self._batch_size):
            yield tf.nest.map_structure(
                lambda a, begin=begin: (
                    None
                    if a is None
                    else tf.convert_to_tensor(
                        np.asarray(a[begin : begin + self._batch_size]).astype(
                            _dtype(a).as_numpy_dtype, copy=False
                        )
                    )
                ),
                self._arrays,
            )


class _PyDatasetBatches:
    """The batches of a `keras.utils.PyDataset`, made into tensors one at a time."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self):
        return self._dataset.num_batches or 0

    def __iter__(self):
        for i in range(len(self)):
            yield tf.nest.map_structure(
                lambda a: None if a is None else tf.convert_to_tensor(a, _dtype(_as_array(a))),
                keras.utils.unpack_x_y_sample_weight(self._dataset[i]),
            )
