"""The given examples, weighted and batched as `fit` does it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeos.curvature.batches import MicroBatches, Nest, num_rows, unflatten


def has_weights(batches: Sequence[Any]) -> bool:
    """Whether any of the batches ``(x, y, sample_weight)`` has weights other than 1."""
    return any(
        weights is not None
        and any(bool(tf.reduce_any(leaf != 1)) for leaf in tf.nest.flatten(weights))
        for _, _, weights in batches
    )


def class_weights(batches: Sequence[Any]) -> dict[int, float] | None:
    """The weight of each label, if the weights of these batches follow from the labels.

    Args:
        batches: Batches ``(x, y, sample_weight)`` that `fit` fed.

    Returns:
        Dictionary of weights by label; None if there is no such function.
    """
    table: dict[int, float] = {}
    num_examples = 0
    for _, y, weights in batches:
        labels = _labels(y)
        if labels is None or weights is None or not tf.is_tensor(weights):
            return None
        flat = np.ravel(weights.numpy())
        if len(flat) != len(labels):
            return None
        num_examples += len(labels)
        for label, weight in zip(labels.tolist(), flat.tolist(), strict=True):
            if table.setdefault(label, weight) != weight:
                return None
    return table if 2 * len(table) <= num_examples else None


def weighted(given: MicroBatches, table: Mapping[int, float]) -> MicroBatches | None:
    """Micro-batches with the weight of each label; None if a label has no weight."""
    batches = [unflatten(given.spec, leaves) for leaves in given]
    known = [_labels(y) for _, y, _ in batches]
    if any(labels is None or not set(labels.tolist()) <= set(table) for labels in known):
        return None
    x, y, _ = given.spec
    rows = tf.nest.flatten(y)[0].shape[0]
    spec = (x, y, tf.TensorSpec((rows,), keras.config.floatx()))
    return MicroBatches(_Weighted(given, table), spec, given.streamed)


class _Weighted:
    """Micro-batches with weights by label, made at each iteration."""

    def __init__(self, given: MicroBatches, table: Mapping[int, float]) -> None:
        self._given, self._table = given, table

    def __iter__(self) -> Iterator[Nest]:
        for leaves in self._given:
            x, y, _ = unflatten(self._given.spec, leaves)
            weights = [self._table[label] for label in np.asarray(_labels(y)).tolist()]
            yield x, y, tf.constant(weights, keras.config.floatx())


def _labels(y: Any) -> np.ndarray | None:
    """Integer labels of a batch, as Keras reads them for its class weights; None if it can't."""
    if not tf.is_tensor(y) or y.shape.rank is None or not 1 <= y.shape.rank <= 2:
        return None
    values = y.numpy()
    if values.ndim == 2 and values.shape[1] > 1:
        return values.argmax(axis=1)
    labels = values.reshape(-1).astype("int64")
    return labels if np.array_equal(labels, values.reshape(-1)) else None


def is_mean_over_examples(model: keras.Model, batch: Nest) -> bool:
    """Whether the loss of a batch is the mean of the losses of its halves, for the same outputs.

    A loss that is summed, that is divided by the number of unmasked entries, or that compares
    examples with each other, is not. True for a batch that can't be cut.
    """
    size = int(num_rows(batch))
    dense = all(isinstance(t, tf.Tensor) for t in tf.nest.flatten(batch) if t is not None)
    if size < 2 or not dense:
        return True
    x, y, weights = batch

    @tf.function(autograph=False)
    def losses() -> list[tf.Tensor]:
        with keras.StatelessScope(collect_losses=True):
            training = {"training": True} if model._call_has_training_arg else {}
            outputs = model(x, **training)
        if not all(t.shape.rank for t in tf.nest.flatten(outputs)):
            return [tf.zeros([])] * 3
        values = []
        for rows in (slice(None), slice(size // 2), slice(size // 2, None)):
            part = tf.nest.map_structure(
                lambda t, rows=rows: None if t is None else t[rows], (x, y, outputs, weights)
            )
            with keras.StatelessScope(collect_losses=True):
                values.append(
                    model.compute_loss(
                        x=part[0], y=part[1], y_pred=part[2], sample_weight=part[3], training=True
                    )
                )
        return values

    try:
        whole, first, second = (float(value) for value in losses.get_concrete_function()())
    except Exception:  # outputs or targets that can't be cut fail in any way
        return True
    mean = (size // 2 * first + (size - size // 2) * second) / size
    half = str(model.compute_dtype) in ("float16", "bfloat16")
    return not abs(whole - mean) > (5e-2 if half else 1e-3) * abs(whole)
