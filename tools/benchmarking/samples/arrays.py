"""Operations that move numbers: shapes, gathers, scatters and sorts."""

import tensorflow as tf

from tools.benchmarking.samples.inputs import IDS, Sample, image

SAMPLES: dict[str, Sample] = {
    "concat": lambda x: tf.concat([x, x**2], 0),
    "raw_concat": lambda x: tf.raw_ops.Concat(concat_dim=0, values=[x, x**2]),
    "stack": lambda x: tf.stack([x, x**2]),
    "unstack": lambda x: tf.unstack(x)[1] ** 2,
    "split": lambda x: tf.split(x, 2)[0] ** 2,
    "split_v": lambda x: tf.split(x, [1, 3])[1] ** 2,
    "slice": lambda x: tf.slice(x, [1, 0], [2, 3]) ** 2,
    "strided_slice": lambda x: x[::2, ::-1] ** 2,
    "pad": lambda x: tf.pad(x, [[1, 0], [0, 2]]) ** 2,
    "pad_constant": lambda x: tf.pad(x, [[1, 0], [0, 2]], constant_values=2.0) ** 2,
    "pad_reflect": lambda x: tf.pad(x, [[1, 1], [2, 2]], "REFLECT") ** 2,
    "tile": lambda x: tf.tile(x, [2, 1]) ** 2,
    "broadcast_to": lambda x: tf.broadcast_to(x, (2, 4, 4)) ** 2,
    "fill": lambda x: tf.fill([3], x[0, 0] ** 2),
    "expand_dims": lambda x: tf.squeeze(tf.expand_dims(x, 0)) ** 2,
    "transpose": lambda x: tf.transpose(x) * x,
    "conjugate_transpose": lambda x: tf.raw_ops.ConjugateTranspose(x=x, perm=[1, 0]) * x,
    "reverse": lambda x: tf.reverse(x, [0]) * x,
    "reverse_sequence": lambda x: tf.reverse_sequence(x, [3] * 4, 1) * x,
    "roll": lambda x: tf.roll(x, 1, 1) * x,
    "ensure_shape": lambda x: tf.ensure_shape(x, (4, 4)) ** 2,
    "check_numerics": lambda x: tf.debugging.check_numerics(x, "x") ** 2,
    "identity_n": lambda x: tf.identity_n([x**2, x])[0],
    "placeholder": lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=(4, 4)) ** 2,
    "space_to_batch": lambda x: tf.space_to_batch(image(x), [2, 2], [[0, 0], [0, 0]]) ** 2,
    "batch_to_space": lambda x: (
        tf.batch_to_space(tf.reshape(x, (4, 2, 2, 1)), [2, 2], [[0, 0]] * 2) ** 2
    ),
    "space_to_depth": lambda x: tf.nn.space_to_depth(image(x), 2) ** 2,
    "depth_to_space": lambda x: tf.nn.depth_to_space(tf.reshape(x, (1, 2, 2, 4)), 2) ** 2,
    "gather": lambda x: tf.gather(x, [0, 3, 3]) ** 2,
    "raw_gather": lambda x: tf.raw_ops.Gather(params=x, indices=[0, 3, 3]) ** 2,
    "gather_nd": lambda x: tf.gather_nd(x, [[0, 1], [1, 2]]) ** 2,
    "scatter_nd": lambda x: tf.scatter_nd([[0], [2], [2]], x[0, :3] ** 2, [4]) ** 2,
    "dynamic_partition": lambda x: tf.dynamic_partition(x, IDS, 3)[0] ** 2,
    "dynamic_stitch": lambda x: tf.dynamic_stitch([[0, 2], [1, 3]], [x[:2] ** 2, x[2:]]) ** 2,
    "parallel_stitch": lambda x: (
        tf.raw_ops.ParallelDynamicStitch(indices=[[0, 2], [1, 3]], data=[x[:2] ** 2, x[2:]]) ** 2
    ),
    "sort": lambda x: tf.sort(x) ** 2,
    "top_k": lambda x: tf.math.top_k(x, 2)[0] ** 2,
    "nth_element": lambda x: tf.raw_ops.NthElement(input=x, n=1) ** 2,
    "cumsum": lambda x: tf.cumsum(x) ** 2,
    "cumprod": lambda x: tf.math.cumprod(1.0 + 0.3 * x),
    "cumulative_logsumexp": lambda x: tf.math.cumulative_logsumexp(x),
    "band_part": lambda x: tf.linalg.band_part(x, 1, 0) ** 2,
    "diag": lambda x: tf.linalg.diag(x) ** 2,
    "diag_part": lambda x: tf.linalg.diag_part(x) ** 2,
    "set_diag": lambda x: tf.linalg.set_diag(x, x[0] ** 2) ** 2,
    "raw_diag": lambda x: tf.raw_ops.Diag(diagonal=x[0] ** 2),
    "raw_diag_part": lambda x: tf.raw_ops.DiagPart(input=x) ** 2,
    "strided_slice_update": lambda x: (
        tf.raw_ops.TensorStridedSliceUpdate(
            input=x, begin=[0], end=[2], strides=[1], value=x[2:] ** 2
        )
        ** 2
    ),
}
