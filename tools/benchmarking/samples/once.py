"""Operations whose gradient TensorFlow cannot differentiate again: they are refused."""

# mypy infers no type of the lambdas with default arguments.
# mypy: disable-error-code="misc"

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tools.benchmarking.samples.inputs import (
    IDS,
    Sample,
    image,
    positive,
    ragged_tensor,
    sparse_tensor,
)


def _mapped(x: tf.Tensor) -> tf.Tensor:
    """Ragged rows, squared one by one."""
    signature = tf.RaggedTensorSpec([None], x.dtype)
    return tf.map_fn(tf.square, ragged_tensor(x), fn_output_signature=signature).flat_values


def _block_lstm(operation: Callable[..., Any], x: tf.Tensor) -> tf.Tensor:
    """The outputs of one step of an LSTM with two units."""
    return operation(
        seq_len_max=tf.constant(1, tf.int64),
        x=tf.reshape(x[0], (1, 1, 4)),
        cs_prev=tf.zeros((1, 2)),
        h_prev=tf.zeros((1, 2)),
        w=0.1 * tf.ones((6, 8)),
        wci=tf.zeros(2),
        wcf=tf.zeros(2),
        wco=tf.zeros(2),
        b=tf.zeros(8),
    )[6]


ONCE: dict[str, Sample] = {
    "CropAndResize": lambda x: tf.image.crop_and_resize(
        image(x), [[0.1, 0.1, 0.8, 0.9]], [0], (3, 3)
    ),
    "Dilation2D": lambda x: tf.nn.dilation2d(
        image(x), tf.reshape(x[0], (2, 2, 1)), [1] * 4, "SAME", "NHWC", [1] * 4
    ),
    "FractionalAvgPool": lambda x: tf.nn.fractional_avg_pool(image(x), [1.0, 1.4, 1.4, 1.0])[0],
    "FractionalMaxPool": lambda x: tf.nn.fractional_max_pool(image(x), [1.0, 1.4, 1.4, 1.0])[0],
    "LRN": lambda x: tf.nn.local_response_normalization(image(x)),
    "MaxPoolWithArgmax": lambda x: tf.nn.max_pool_with_argmax(image(x), 2, 2, "SAME")[0],
    "SparseAdd": lambda x: tf.sparse.add(sparse_tensor(x), sparse_tensor(x**2)).values,
    "SparseFillEmptyRows": lambda x: tf.sparse.fill_empty_rows(sparse_tensor(x), 0.0)[0].values,
    "SparseSegmentMean": lambda x: tf.sparse.segment_mean(x, tf.range(4), IDS),
    "SparseSegmentSqrtN": lambda x: tf.sparse.segment_sqrt_n(x, tf.range(4), IDS),
    "SparseSegmentSum": lambda x: tf.sparse.segment_sum(x, tf.range(4), IDS),
    "SparseSlice": lambda x: tf.sparse.slice(sparse_tensor(x), [0, 0], [1, 4]).values,
    "SparseSoftmax": lambda x: tf.sparse.softmax(sparse_tensor(x)).values,
    "SparseSparseMaximum": lambda x: (
        tf.sparse.maximum(sparse_tensor(x), sparse_tensor(x**2)).values
    ),
    "SparseSparseMinimum": lambda x: (
        tf.sparse.minimum(sparse_tensor(x), sparse_tensor(x**2)).values
    ),
    "SparseDenseCwiseAdd": lambda x: tf.raw_ops.SparseDenseCwiseAdd(
        sp_indices=[[0, 0], [0, 2]], sp_values=x[0, :2], sp_shape=[4, 4], dense=x
    ),
    **{
        f"SparseSegment{kind}WithNumSegments": lambda x, name=name: getattr(tf.sparse, name)(
            x, tf.range(4), IDS, num_segments=4
        )
        for kind, name in (
            ("Sum", "segment_sum"),
            ("Mean", "segment_mean"),
            ("SqrtN", "segment_sqrt_n"),
        )
    },
    "BlockLSTM": lambda x: _block_lstm(tf.raw_ops.BlockLSTM, x),
    "BlockLSTMV2": lambda x: _block_lstm(tf.raw_ops.BlockLSTMV2, x),
    "CTCLoss": lambda x: tf.compat.v1.nn.ctc_loss(
        tf.SparseTensor([[0, 0]], [1], [1, 4]), tf.reshape(x, (4, 1, 4)), [4]
    ),
    "CTCLossV2": lambda x: tf.raw_ops.CTCLossV2(
        inputs=tf.reshape(x, (4, 1, 4)),
        labels_indices=tf.constant([[0, 0]], tf.int64),
        labels_values=[1],
        sequence_length=[4],
    )[0],
    "RaggedFillEmptyRows": lambda x: tf.raw_ops.RaggedFillEmptyRows(
        value_rowids=[0, 0, 2], values=x[0, :3], nrows=4, default_value=x[1, 1]
    )[1],
    "RaggedTensorFromVariant": lambda x: _mapped(x),
    "RaggedTensorToVariant": lambda x: _mapped(x),
    "StatelessRandomGammaV2": lambda x: tf.raw_ops.StatelessRandomGammaV2(
        shape=(4, 4), seed=(1, 2), alpha=positive(x)
    ),
    "StatelessRandomGammaV3": lambda x: tf.random.stateless_gamma(
        (4, 4), (1, 2), alpha=positive(x)
    ),
}
