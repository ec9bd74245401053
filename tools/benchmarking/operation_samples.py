"""Calls of TensorFlow whose second derivatives are compared with differences of the gradient."""

# mypy infers no type of the lambdas with default arguments.
# mypy: disable-error-code="misc"

from collections.abc import Callable

import tensorflow as tf

Sample = Callable[[tf.Tensor], tf.Tensor]

_IDS = tf.constant([0, 0, 1, 2])


def _image(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, (1, 4, 4, 1))


def _positive(x: tf.Tensor) -> tf.Tensor:
    return x**2 + 1.0


def _definite(x: tf.Tensor) -> tf.Tensor:
    return x @ tf.transpose(x) + 2.0 * tf.eye(4, dtype=x.dtype)


def _regular(x: tf.Tensor) -> tf.Tensor:
    return x + 3.0 * tf.eye(4, dtype=x.dtype)


def _complex(x: tf.Tensor) -> tf.Tensor:
    return tf.complex(x[:2], x[2:])


def _sparse(x: tf.Tensor) -> tf.SparseTensor:
    return tf.SparseTensor([[0, 0], [0, 2], [2, 1]], x[0, :3], [4, 4])


def _ragged(x: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(tf.reshape(x, [-1]), [3, 5, 8])


# name: a function of a tensor of shape (4, 4)
SAMPLES: dict[str, Sample] = {
    name: getattr(tf.math, name)
    for name in [
        "abs",
        "asinh",
        "atan",
        "bessel_i0",
        "bessel_i0e",
        "bessel_i1",
        "bessel_i1e",
        "cos",
        "cosh",
        "erf",
        "erfc",
        "exp",
        "expm1",
        "log_sigmoid",
        "negative",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "softplus",
        "square",
        "tan",
        "tanh",
        "floor",
        "ceil",
        "round",
        "rint",
    ]
}
SAMPLES |= {
    f"positive_{name}": lambda x, name=name: getattr(tf.math, name)(_positive(x))
    for name in (
        [
            "acosh",
            "digamma",
            "lgamma",
            "log",
            "log1p",
            "reciprocal",
            "reciprocal_no_nan",
            "rsqrt",
            "sqrt",
        ]
    )
}
SAMPLES |= {
    f"small_{name}": lambda x, name=name: getattr(tf.math, name)(0.8 * tf.tanh(x))
    for name in ["acos", "asin", "atanh", "erfinv", "ndtri"]
    if name != "ndtri"
}
SAMPLES |= {
    f"special_{name}": lambda x, name=name: getattr(tf.math.special, name)(_positive(x))
    for name in [
        "bessel_j0",
        "bessel_j1",
        "bessel_k0",
        "bessel_k0e",
        "bessel_k1",
        "bessel_k1e",
        "bessel_y0",
        "bessel_y1",
        "dawsn",
        "expint",
        "fresnel_cos",
        "fresnel_sin",
        "spence",
    ]
}
SAMPLES |= {
    f"nn_{name}": getattr(tf.nn, name)
    for name in [
        "elu",
        "gelu",
        "leaky_relu",
        "relu",
        "relu6",
        "selu",
        "silu",
        "softmax",
        "log_softmax",
        "softsign",
        "crelu",
    ]
}
SAMPLES |= {
    f"reduce_{name}": lambda x, name=name: getattr(tf.math, f"reduce_{name}")(x, axis=1)
    for name in [
        "max",
        "min",
        "mean",
        "prod",
        "std",
        "variance",
        "sum",
        "logsumexp",
        "euclidean_norm",
    ]
}
SAMPLES |= {
    f"segment_{name}": lambda x, name=name: getattr(tf.math, f"segment_{name}")(x, _IDS) ** 2
    for name in ["sum", "mean", "max", "min", "prod"]
    if name != "prod"
}
SAMPLES |= {
    f"unsorted_segment_{name}": lambda x, name=name: (
        getattr(tf.math, f"unsorted_segment_{name}")(x, _IDS, 3) ** 2
    )
    for name in ["sum", "mean", "max", "min", "prod", "sqrt_n"]
}
SAMPLES |= {
    f"scatter_{name}": lambda x, name=name: (
        getattr(tf, f"tensor_scatter_nd_{name}")(x, [[1], [3]], x[:2] ** 2) ** 2
    )
    for name in ["add", "sub", "update", "max", "min"]
}
SAMPLES |= {
    # binary
    "add": lambda x: x + 2.0 * tf.transpose(x),
    "add_n": lambda x: tf.add_n([x, x**2, tf.sin(x)]),
    "sub": lambda x: x - tf.transpose(x) ** 2,
    "mul": lambda x: x * tf.transpose(x),
    "div": lambda x: x / _positive(x),
    "div_no_nan": lambda x: tf.math.divide_no_nan(x, _positive(x)),
    "mul_no_nan": lambda x: tf.math.multiply_no_nan(x, x**2),
    "raw_div": lambda x: tf.raw_ops.Div(x=x, y=_positive(x)),
    "raw_add": lambda x: tf.raw_ops.Add(x=x, y=x**2),
    "floor_div": lambda x: tf.math.floordiv(x, 0.3) + x,
    "floor_mod": lambda x: tf.math.floormod(x, 0.71 + x**2),
    "truncate_div": lambda x: x * tf.cast(tf.raw_ops.TruncateDiv(x=7, y=2), x.dtype),
    "pow": lambda x: _positive(x) ** x,
    "maximum": lambda x: tf.maximum(x, tf.transpose(x)) ** 2,
    "minimum": lambda x: tf.minimum(x, tf.transpose(x)) ** 2,
    "atan2": lambda x: tf.atan2(x, _positive(x)),
    "squared_difference": lambda x: tf.math.squared_difference(x, tf.transpose(x)) ** 2,
    "xlogy": lambda x: tf.math.xlogy(x, _positive(x)),
    "xlog1py": lambda x: tf.math.xlog1py(x, x**2),
    "xdivy": lambda x: tf.math.xdivy(x, _positive(x)),
    "next_after": lambda x: tf.math.nextafter(x, tf.zeros_like(x)) ** 2,
    "zeta": lambda x: tf.math.zeta(tf.cast(3.0, x.dtype), _positive(x)),
    "polygamma": lambda x: tf.math.polygamma(tf.cast(1.0, x.dtype), _positive(x)),
    "igamma": lambda x: tf.math.igamma(tf.cast(2.0, x.dtype), _positive(x)),
    "igammac": lambda x: tf.math.igammac(tf.cast(2.0, x.dtype), _positive(x)),
    "betainc": lambda x: tf.math.betainc(
        2.0 * tf.ones_like(x), 3.0 * tf.ones_like(x), tf.sigmoid(x)
    ),
    "ndtri": lambda x: tf.math.ndtri(tf.sigmoid(x)),
    "clip": lambda x: tf.clip_by_value(x, -0.5, 0.5) ** 2,
    "raw_clip": lambda x: (
        tf.raw_ops.ClipByValue(
            t=x, clip_value_min=tf.cast(-0.5, x.dtype), clip_value_max=tf.cast(0.5, x.dtype)
        )
        ** 2
    ),
    "clip_by_norm": lambda x: tf.clip_by_norm(x, 0.7, [1]),
    "where": lambda x: tf.where(x > 0.0, x**2, tf.sin(x)),
    "raw_select": lambda x: tf.raw_ops.Select(condition=x > 0.0, x=x**2, y=tf.sin(x)),
    "cross": lambda x: tf.linalg.cross(x[:, :3], x[:, 1:] ** 2),
    "cast": lambda x: tf.cast(tf.cast(x, tf.complex128) ** 2, x.dtype),
    # shapes
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
    "space_to_batch": lambda x: tf.space_to_batch(_image(x), [2, 2], [[0, 0], [0, 0]]) ** 2,
    "batch_to_space": lambda x: (
        tf.batch_to_space(tf.reshape(x, (4, 2, 2, 1)), [2, 2], [[0, 0]] * 2) ** 2
    ),
    "space_to_depth": lambda x: tf.nn.space_to_depth(_image(x), 2) ** 2,
    "depth_to_space": lambda x: tf.nn.depth_to_space(tf.reshape(x, (1, 2, 2, 4)), 2) ** 2,
    "gather": lambda x: tf.gather(x, [0, 3, 3]) ** 2,
    "raw_gather": lambda x: tf.raw_ops.Gather(params=x, indices=[0, 3, 3]) ** 2,
    "gather_nd": lambda x: tf.gather_nd(x, [[0, 1], [1, 2]]) ** 2,
    "scatter_nd": lambda x: tf.scatter_nd([[0], [2], [2]], x[0, :3] ** 2, [4]) ** 2,
    "dynamic_partition": lambda x: tf.dynamic_partition(x, _IDS, 3)[0] ** 2,
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
    # linear algebra
    "matmul": lambda x: x @ x,
    "batch_matmul": lambda x: tf.reshape(x, (4, 2, 2)) @ tf.reshape(x, (4, 2, 2)),
    "einsum": lambda x: tf.einsum("ij,jk,kl->il", x, x, x),
    "cholesky": lambda x: tf.linalg.cholesky(_definite(x)),
    "inverse": lambda x: tf.linalg.inv(_regular(x)),
    "determinant": lambda x: tf.linalg.det(_regular(x)) / 50.0,
    "log_determinant": lambda x: tf.linalg.slogdet(_regular(x))[1],
    "solve": lambda x: tf.linalg.solve(_regular(x), x),
    "triangular_solve": lambda x: tf.linalg.triangular_solve(_regular(x), x),
    "banded_triangular_solve": lambda x: tf.linalg.banded_triangular_solve(
        tf.concat([_positive(x[:1]), x[1:2]], 0), x
    ),
    "tridiagonal_solve": lambda x: tf.linalg.tridiagonal_solve(
        tf.stack([x[0], 4.0 + x[1] ** 2, x[2]]), x[3], diagonals_format="compact"
    ),
    "tridiagonal_matmul": lambda x: tf.linalg.tridiagonal_matmul(
        (x[0], x[1], x[2]), x, diagonals_format="sequence"
    ),
    "least_squares": lambda x: tf.linalg.lstsq(_regular(x), x, fast=True),
    "eigenvalues": lambda x: tf.linalg.eigvalsh(_definite(x)),
    "eigenvectors": lambda x: tf.linalg.eigh(_definite(x))[1] ** 2,
    "singular_values": lambda x: tf.linalg.svd(_regular(x), compute_uv=False),
    "singular_vectors": lambda x: tf.linalg.svd(_regular(x))[1] ** 2,
    "qr": lambda x: tf.linalg.qr(_regular(x))[1] ** 2,
    "matrix_root": lambda x: tf.linalg.sqrtm(_definite(x)),
    "exponential": lambda x: tf.linalg.expm(0.1 * x),
    # complex numbers and transforms
    "complex": lambda x: tf.abs(_complex(x) ** 3),
    "angle": lambda x: tf.math.angle(_complex(x)),
    "conj": lambda x: tf.math.real(tf.math.conj(_complex(x)) * _complex(x) ** 2),
    "imag": lambda x: tf.math.imag(_complex(x) ** 2),
    "fft": lambda x: tf.abs(tf.signal.fft(_complex(x))),
    "fft2d": lambda x: tf.abs(tf.signal.fft2d(_complex(x))),
    "ifft": lambda x: tf.abs(tf.signal.ifft(_complex(x))),
    "ifft2d": lambda x: tf.abs(tf.signal.ifft2d(_complex(x))),
    "fft3d": lambda x: tf.abs(tf.signal.fft3d(_complex(x)[None])),
    "ifft3d": lambda x: tf.abs(tf.signal.ifft3d(_complex(x)[None])),
    "rfft": lambda x: tf.abs(tf.signal.rfft(x)),
    "rfft2d": lambda x: tf.abs(tf.signal.rfft2d(x)),
    "irfft": lambda x: tf.signal.irfft(_complex(x)),
    "irfft2d": lambda x: tf.signal.irfft2d(_complex(x)),
    # networks
    "bias_add": lambda x: tf.nn.bias_add(x, x[0]) ** 2,
    "l2_loss": lambda x: tf.nn.l2_loss(x**2),
    "conv2d": lambda x: tf.nn.conv2d(_image(x), tf.reshape(x[0], (2, 2, 1, 1)), 1, "SAME"),
    "conv2d_transposed": lambda x: tf.nn.conv2d_transpose(
        _image(x), tf.reshape(x[0], (2, 2, 1, 1)), (1, 8, 8, 1), 2
    ),
    "conv3d": lambda x: tf.nn.conv3d(
        tf.reshape(x, (1, 2, 4, 2, 1)), tf.reshape(x[:2], (2, 2, 2, 1, 1)), [1] * 5, "SAME"
    ),
    "conv3d_transposed": lambda x: tf.nn.conv3d_transpose(
        tf.reshape(x, (1, 2, 4, 2, 1)), tf.reshape(x[:2], (2, 2, 2, 1, 1)), (1, 4, 8, 4, 1), 2
    ),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(
        _image(x), tf.reshape(x[0], (2, 2, 1, 1)), [1] * 4, "SAME"
    ),
    "depthwise_backprop": lambda x: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=(1, 4, 4, 1),
        filter=tf.reshape(x[0], (2, 2, 1, 1)),
        out_backprop=_image(x),
        strides=[1] * 4,
        padding="SAME",
    ),
    "average_pool": lambda x: tf.nn.avg_pool2d(_image(x), 3, 1, "SAME") ** 2,
    "max_pool": lambda x: tf.nn.max_pool2d(_image(x), 3, 1, "SAME") ** 2,
    "max_pool_explicit": lambda x: (
        tf.nn.max_pool2d(_image(x), 3, 1, [[0, 0], [1, 1], [1, 1], [0, 0]]) ** 2
    ),
    "patches": lambda x: (
        tf.image.extract_patches(_image(x), [1, 2, 2, 1], [1] * 4, [1] * 4, "SAME") ** 2
    ),
    "resize_nearest": lambda x: tf.image.resize(_image(x), (3, 5), "nearest") ** 2,
    "cross_entropy": lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x), x**2),
    "sparse_cross_entropy": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(
        [0, 1, 2, 3], x
    ),
    "raw_inverse": lambda x: tf.raw_ops.Inv(x=_positive(x)),
    "raw_reverse": lambda x: tf.raw_ops.Reverse(tensor=x, dims=[True, False]) * x,
    "raw_batch_matmul": lambda x: tf.raw_ops.BatchMatMul(x=x[None], y=x[None]),
    "raw_batch_matmul_v3": lambda x: tf.raw_ops.BatchMatMulV3(x=x[None], y=x[None], Tout=x.dtype),
    "raw_accumulate": lambda x: tf.raw_ops.AccumulateNV2(inputs=[x, x**2], shape=(4, 4)),
    "raw_matrix_diag": lambda x: tf.raw_ops.MatrixDiag(diagonal=x) ** 2,
    "raw_matrix_diag_part": lambda x: tf.raw_ops.MatrixDiagPart(input=x) ** 2,
    "raw_matrix_set_diag": lambda x: tf.raw_ops.MatrixSetDiag(input=x, diagonal=x[0] ** 2) ** 2,
    "raw_print": lambda x: tf.raw_ops.Print(input=x, data=[], summarize=0, first_n=0) ** 2,
    "raw_space_to_batch": lambda x: (
        tf.raw_ops.SpaceToBatch(input=_image(x), paddings=[[0, 0], [0, 0]], block_size=2) ** 2
    ),
    "raw_bias_add": lambda x: tf.raw_ops.BiasAddV1(value=x, bias=x[0]) ** 2,
    "isotonic": lambda x: tf.nn.isotonic_regression(x)[0] ** 2,
    "segment_product": lambda x: tf.math.segment_prod(x, _IDS),
    "masked_logsumexp": lambda x: tf.nn.softplus(
        tf.reduce_logsumexp(tf.where(x > 0.0, x, tf.cast(-1e9, x.dtype)), axis=1)
    ),
    # control flow
    "cond": lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.sin(x) ** 2, lambda: x**3),
    "case": lambda x: tf.switch_case(tf.constant(1), [lambda: x, lambda: x**3]),
    "while_loop": lambda x: tf.while_loop(
        lambda i, _: i < 3, lambda i, a: (i + 1, tf.sin(a) * x), (0, x)
    )[1],
    "scan": lambda x: tf.scan(lambda a, row: tf.tanh(a + row), x),
    "vectorized_map": lambda x: tf.vectorized_map(lambda row: tf.reduce_sum(row**2) * row, x),
    # sparse and ragged
    "sparse_matmul": lambda x: tf.sparse.sparse_dense_matmul(_sparse(x), x),
    "sparse_to_dense": lambda x: tf.sparse.to_dense(_sparse(x)) ** 2,
    "raw_sparse_to_dense": lambda x: (
        tf.raw_ops.SparseToDense(
            sparse_indices=[[0], [2]],
            output_shape=[4],
            sparse_values=x[0, :2],
            default_value=x[1, 0],
        )
        ** 2
    ),
    "sparse_reduce_sum": lambda x: tf.sparse.reduce_sum(_sparse(x**2), 1) ** 2,
    "sparse_reorder": lambda x: tf.sparse.reorder(_sparse(x)).values ** 2,
    "sparse_multiply": lambda x: (_sparse(x) * x).values,
    "sparse_divide": lambda x: (_sparse(x) / _positive(x)).values,
    "sparse_add": lambda x: tf.sparse.add(_sparse(x), x**2),
    "ragged_to_dense": lambda x: _ragged(x).to_tensor() ** 2,
    "ragged_to_sparse": lambda x: _ragged(x).to_sparse().values ** 2,
    "ragged_gather": lambda x: tf.gather(_ragged(x), [0, 2]).flat_values ** 2,
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
        tf.raw_ops.MaxPoolV2(input=_image(x), ksize=[1, 2, 2, 1], strides=[1] * 4, padding="SAME")
        ** 2
    ),
    "bilinear": lambda x: tf.image.resize(_image(x), (3, 5)) ** 2,
    "bicubic": lambda x: tf.image.resize(_image(x), (3, 5), "bicubic") ** 2,
    "antialiased": lambda x: tf.image.resize(_image(x), (2, 2), antialias=True) ** 2,
    "batch_norm_fused": lambda x: tf.compat.v1.nn.fused_batch_norm(
        _image(x), x[0, :1] + 1.0, x[0, 1:2]
    )[0],
    "batch_norm_fused_inference": lambda x: tf.compat.v1.nn.fused_batch_norm(
        _image(x), x[0, :1] + 1.0, x[0, 1:2], tf.zeros(1), tf.ones(1), is_training=False
    )[0],
    "hue": lambda x: tf.image.rgb_to_hsv(tf.sigmoid(tf.reshape(x[:3], (2, 2, 3)))),
    "projective": lambda x: (
        tf.raw_ops.ImageProjectiveTransformV3(
            images=_image(x),
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
    "eigenvalues_general": lambda x: tf.abs(tf.linalg.eig(_regular(x))[0]),
}
# Operations whose gradient TensorFlow cannot differentiate again: they are refused.
ONCE: dict[str, Sample] = {
    "CropAndResize": lambda x: tf.image.crop_and_resize(
        _image(x), [[0.1, 0.1, 0.8, 0.9]], [0], (3, 3)
    ),
    "Dilation2D": lambda x: tf.nn.dilation2d(
        _image(x), tf.reshape(x[0], (2, 2, 1)), [1] * 4, "SAME", "NHWC", [1] * 4
    ),
    "FractionalAvgPool": lambda x: tf.nn.fractional_avg_pool(_image(x), [1.0, 1.4, 1.4, 1.0])[0],
    "FractionalMaxPool": lambda x: tf.nn.fractional_max_pool(_image(x), [1.0, 1.4, 1.4, 1.0])[0],
    "LRN": lambda x: tf.nn.local_response_normalization(_image(x)),
    "MaxPoolWithArgmax": lambda x: tf.nn.max_pool_with_argmax(_image(x), 2, 2, "SAME")[0],
    "SparseAdd": lambda x: tf.sparse.add(_sparse(x), _sparse(x**2)).values,
    "SparseFillEmptyRows": lambda x: tf.sparse.fill_empty_rows(_sparse(x), 0.0)[0].values,
    "SparseSegmentMean": lambda x: tf.sparse.segment_mean(x, tf.range(4), _IDS),
    "SparseSegmentSqrtN": lambda x: tf.sparse.segment_sqrt_n(x, tf.range(4), _IDS),
    "SparseSegmentSum": lambda x: tf.sparse.segment_sum(x, tf.range(4), _IDS),
    "SparseSlice": lambda x: tf.sparse.slice(_sparse(x), [0, 0], [1, 4]).values,
    "SparseSoftmax": lambda x: tf.sparse.softmax(_sparse(x)).values,
    "SparseSparseMaximum": lambda x: tf.sparse.maximum(_sparse(x), _sparse(x**2)).values,
    "SparseSparseMinimum": lambda x: tf.sparse.minimum(_sparse(x), _sparse(x**2)).values,
}
