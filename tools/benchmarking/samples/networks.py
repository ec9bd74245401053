"""Layers, losses, control flow, and sparse and ragged tensors."""

import tensorflow as tf

from tools.benchmarking.samples.inputs import (
    IDS,
    Sample,
    image,
    positive,
    ragged_tensor,
    regular,
    sparse_tensor,
)

SAMPLES: dict[str, Sample] = {
    "bias_add": lambda x: tf.nn.bias_add(x, x[0]) ** 2,
    "l2_loss": lambda x: tf.nn.l2_loss(x**2),
    "conv2d": lambda x: tf.nn.conv2d(image(x), tf.reshape(x[0], (2, 2, 1, 1)), 1, "SAME"),
    "conv2d_transposed": lambda x: tf.nn.conv2d_transpose(
        image(x), tf.reshape(x[0], (2, 2, 1, 1)), (1, 8, 8, 1), 2
    ),
    "conv3d": lambda x: tf.nn.conv3d(
        tf.reshape(x, (1, 2, 4, 2, 1)), tf.reshape(x[:2], (2, 2, 2, 1, 1)), [1] * 5, "SAME"
    ),
    "conv3d_transposed": lambda x: tf.nn.conv3d_transpose(
        tf.reshape(x, (1, 2, 4, 2, 1)), tf.reshape(x[:2], (2, 2, 2, 1, 1)), (1, 4, 8, 4, 1), 2
    ),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(
        image(x), tf.reshape(x[0], (2, 2, 1, 1)), [1] * 4, "SAME"
    ),
    "depthwise_backprop": lambda x: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=(1, 4, 4, 1),
        filter=tf.reshape(x[0], (2, 2, 1, 1)),
        out_backprop=image(x),
        strides=[1] * 4,
        padding="SAME",
    ),
    "average_pool": lambda x: tf.nn.avg_pool2d(image(x), 3, 1, "SAME") ** 2,
    "max_pool": lambda x: tf.nn.max_pool2d(image(x), 3, 1, "SAME") ** 2,
    "max_pool_explicit": lambda x: (
        tf.nn.max_pool2d(image(x), 3, 1, [[0, 0], [1, 1], [1, 1], [0, 0]]) ** 2
    ),
    "patches": lambda x: (
        tf.image.extract_patches(image(x), [1, 2, 2, 1], [1] * 4, [1] * 4, "SAME") ** 2
    ),
    "resize_nearest": lambda x: tf.image.resize(image(x), (3, 5), "nearest") ** 2,
    "cross_entropy": lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x), x**2),
    "sparse_cross_entropy": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(
        [0, 1, 2, 3], x
    ),
    "raw_inverse": lambda x: tf.raw_ops.Inv(x=positive(x)),
    "raw_reverse": lambda x: tf.raw_ops.Reverse(tensor=x, dims=[True, False]) * x,
    "raw_batch_matmul": lambda x: tf.raw_ops.BatchMatMul(x=x[None], y=x[None]),
    "raw_batch_matmul_v3": lambda x: tf.raw_ops.BatchMatMulV3(x=x[None], y=x[None], Tout=x.dtype),
    "raw_accumulate": lambda x: tf.raw_ops.AccumulateNV2(inputs=[x, x**2], shape=(4, 4)),
    "raw_matrix_diag": lambda x: tf.raw_ops.MatrixDiag(diagonal=x) ** 2,
    "raw_matrix_diag_part": lambda x: tf.raw_ops.MatrixDiagPart(input=x) ** 2,
    "raw_matrix_set_diag": lambda x: tf.raw_ops.MatrixSetDiag(input=x, diagonal=x[0] ** 2) ** 2,
    "raw_print": lambda x: tf.raw_ops.Print(input=x, data=[], summarize=0, first_n=0) ** 2,
    "raw_space_to_batch": lambda x: (
        tf.raw_ops.SpaceToBatch(input=image(x), paddings=[[0, 0], [0, 0]], block_size=2) ** 2
    ),
    "raw_bias_add": lambda x: tf.raw_ops.BiasAddV1(value=x, bias=x[0]) ** 2,
    "isotonic": lambda x: tf.nn.isotonic_regression(x)[0] ** 2,
    "segment_product": lambda x: tf.math.segment_prod(x, IDS),
    "masked_logsumexp": lambda x: tf.nn.softplus(
        tf.reduce_logsumexp(tf.where(x > 0.0, x, tf.cast(-1e9, x.dtype)), axis=1)
    ),
    "cond": lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.sin(x) ** 2, lambda: x**3),
    "case": lambda x: tf.switch_case(tf.constant(1), [lambda: x, lambda: x**3]),
    "while_loop": lambda x: tf.while_loop(
        lambda i, _: i < 3, lambda i, a: (i + 1, tf.sin(a) * x), (0, x)
    )[1],
    "scan": lambda x: tf.scan(lambda a, row: tf.tanh(a + row), x),
    "vectorized_map": lambda x: tf.vectorized_map(lambda row: tf.reduce_sum(row**2) * row, x),
    "sparse_matmul": lambda x: tf.sparse.sparse_dense_matmul(sparse_tensor(x), x),
    "sparse_to_dense": lambda x: tf.sparse.to_dense(sparse_tensor(x)) ** 2,
    "raw_sparse_to_dense": lambda x: (
        tf.raw_ops.SparseToDense(
            sparse_indices=[[0], [2]],
            output_shape=[4],
            sparse_values=x[0, :2],
            default_value=x[1, 0],
        )
        ** 2
    ),
    "sparse_reduce_sum": lambda x: tf.sparse.reduce_sum(sparse_tensor(x**2), 1) ** 2,
    "sparse_reorder": lambda x: tf.sparse.reorder(sparse_tensor(x)).values ** 2,
    "sparse_multiply": lambda x: (sparse_tensor(x) * x).values,
    "sparse_divide": lambda x: (sparse_tensor(x) / positive(x)).values,
    "sparse_add": lambda x: tf.sparse.add(sparse_tensor(x), x**2),
    "ragged_to_dense": lambda x: ragged_tensor(x).to_tensor() ** 2,
    "ragged_to_sparse": lambda x: ragged_tensor(x).to_sparse().values ** 2,
    "ragged_gather": lambda x: tf.gather(ragged_tensor(x), [0, 2]).flat_values ** 2,
}
# Computed in float32.
SINGLE: dict[str, Sample] = {
    "approximate_top_k": lambda x: tf.math.approx_max_k(x, 2)[0] ** 2,
    "dense_sparse_product": lambda x: tf.raw_ops.SparseMatMul(a=x, b=x**2),
    "average_pool_3d": lambda x: (
        tf.nn.avg_pool3d(tf.reshape(x, (1, 2, 4, 2, 1)), 2, 1, "SAME") ** 2
    ),
    "max_pool_3d": lambda x: tf.nn.max_pool3d(tf.reshape(x, (1, 2, 4, 2, 1)), 2, 1, "SAME") ** 2,
    "max_pool_v2": lambda x: (
        tf.raw_ops.MaxPoolV2(input=image(x), ksize=[1, 2, 2, 1], strides=[1] * 4, padding="SAME")
        ** 2
    ),
    "bilinear": lambda x: tf.image.resize(image(x), (3, 5)) ** 2,
    "bicubic": lambda x: tf.image.resize(image(x), (3, 5), "bicubic") ** 2,
    "antialiased": lambda x: tf.image.resize(image(x), (2, 2), antialias=True) ** 2,
    "batch_norm_fused": lambda x: tf.compat.v1.nn.fused_batch_norm(
        image(x), x[0, :1] + 1.0, x[0, 1:2]
    )[0],
    "batch_norm_fused_inference": lambda x: tf.compat.v1.nn.fused_batch_norm(
        image(x), x[0, :1] + 1.0, x[0, 1:2], tf.zeros(1), tf.ones(1), is_training=False
    )[0],
    "hue": lambda x: tf.image.rgb_to_hsv(tf.sigmoid(tf.reshape(x[:3], (2, 2, 3)))),
    "projective": lambda x: (
        tf.raw_ops.ImageProjectiveTransformV3(
            images=image(x),
            transforms=[[1.0, 0.2, 0.0, 0.1, 1.0, 0.0, 0.0, 0.0]],
            output_shape=[4, 4],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
        ** 2
    ),
    "volume_patches": lambda x: (
        tf.raw_ops.ExtractVolumePatches(
            input=tf.reshape(x, (1, 2, 4, 2, 1)),
            ksizes=[1, 2, 2, 2, 1],
            strides=[1] * 5,
            padding="SAME",
        )
        ** 2
    ),
    "eigenvalues_general": lambda x: tf.abs(tf.linalg.eig(regular(x))[0]),
}
