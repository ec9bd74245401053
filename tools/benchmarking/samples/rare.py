"""Operations that Keras and the Python functions of TensorFlow call rarely, or no longer."""

import tensorflow as tf

from tools.benchmarking.samples.inputs import Sample, image, positive, regular

SAMPLES: dict[str, Sample] = {
    "raw_batch_to_space": lambda x: (
        tf.raw_ops.BatchToSpace(
            input=tf.reshape(x, (4, 2, 2, 1)), crops=[[0, 0], [0, 0]], block_size=2
        )
        ** 2
    ),
    "raw_matrix_diag_v2": lambda x: (
        tf.raw_ops.MatrixDiagV2(
            diagonal=x, k=0, num_rows=-1, num_cols=-1, padding_value=tf.cast(0.0, x.dtype)
        )
        ** 2
    ),
    "raw_matrix_diag_part_v2": lambda x: (
        tf.raw_ops.MatrixDiagPartV2(input=x, k=0, padding_value=tf.cast(0.0, x.dtype)) ** 2
    ),
    "raw_matrix_set_diag_v2": lambda x: (
        tf.raw_ops.MatrixSetDiagV2(input=x, diagonal=x[0] ** 2, k=0) ** 2
    ),
    "raw_inverse_gradient": lambda x: tf.raw_ops.InvGrad(y=1.0 / positive(x), dy=x),
    "raw_softplus_gradient": lambda x: tf.raw_ops.SoftplusGrad(gradients=x, features=x**2),
    "raw_least_squares": lambda x: tf.raw_ops.MatrixSolveLs(
        matrix=regular(x), rhs=x, l2_regularizer=tf.constant(0.1, tf.float64), fast=True
    ),
    "raw_scatter_add": lambda x: (
        tf.raw_ops.ScatterNdNonAliasingAdd(input=x, indices=[[1], [3]], updates=x[:2] ** 2) ** 2
    ),
    "compressed_rows": lambda x: (
        tf.raw_ops.CSRSparseMatrixToDense(
            sparse_input=tf.raw_ops.DenseToCSRSparseMatrix(
                dense_input=x, indices=tf.constant([[0, 0], [1, 2]], tf.int64)
            ),
            type=x.dtype,
        )
        ** 2
    ),
    "raw_check_numerics": lambda x: tf.raw_ops.CheckNumericsV2(tensor=x, message="x") ** 2,
}
# Computed in float32.
SINGLE: dict[str, Sample] = {
    "raw_batch_norm_v1": lambda x: tf.raw_ops.FusedBatchNorm(
        x=image(x), scale=x[0, :1] + 1.0, offset=x[0, 1:2], mean=[], variance=[]
    )[0],
    "raw_batch_norm_v2": lambda x: tf.raw_ops.FusedBatchNormV2(
        x=image(x), scale=x[0, :1] + 1.0, offset=x[0, 1:2], mean=[], variance=[]
    )[0],
    "raw_projective_v2": lambda x: (
        tf.raw_ops.ImageProjectiveTransformV2(
            images=image(x),
            transforms=[[1.0, 0.2, 0.0, 0.1, 1.0, 0.0, 0.0, 0.0]],
            output_shape=[4, 4],
            interpolation="BILINEAR",
        )
        ** 2
    ),
}
