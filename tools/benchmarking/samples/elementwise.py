"""Functions of each number, reductions, and binary operations."""

# mypy infers no type of the lambdas with default arguments.
# mypy: disable-error-code="misc"

import tensorflow as tf

from tools.benchmarking.samples.inputs import IDS, Sample, positive

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
    f"positive_{name}": lambda x, name=name: getattr(tf.math, name)(positive(x))
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
    f"special_{name}": lambda x, name=name: getattr(tf.math.special, name)(positive(x))
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
    f"segment_{name}": lambda x, name=name: getattr(tf.math, f"segment_{name}")(x, IDS) ** 2
    for name in ["sum", "mean", "max", "min", "prod"]
    if name != "prod"
}
SAMPLES |= {
    f"unsorted_segment_{name}": lambda x, name=name: (
        getattr(tf.math, f"unsorted_segment_{name}")(x, IDS, 3) ** 2
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
    "add": lambda x: x + 2.0 * tf.transpose(x),
    "add_n": lambda x: tf.add_n([x, x**2, tf.sin(x)]),
    "sub": lambda x: x - tf.transpose(x) ** 2,
    "mul": lambda x: x * tf.transpose(x),
    "div": lambda x: x / positive(x),
    "div_no_nan": lambda x: tf.math.divide_no_nan(x, positive(x)),
    "mul_no_nan": lambda x: tf.math.multiply_no_nan(x, x**2),
    "raw_div": lambda x: tf.raw_ops.Div(x=x, y=positive(x)),
    "raw_add": lambda x: tf.raw_ops.Add(x=x, y=x**2),
    "floor_div": lambda x: tf.math.floordiv(x, 0.3) + x,
    "floor_mod": lambda x: tf.math.floormod(x, 0.71 + x**2),
    "truncate_div": lambda x: x * tf.cast(tf.raw_ops.TruncateDiv(x=7, y=2), x.dtype),
    "pow": lambda x: positive(x) ** x,
    "maximum": lambda x: tf.maximum(x, tf.transpose(x)) ** 2,
    "minimum": lambda x: tf.minimum(x, tf.transpose(x)) ** 2,
    "atan2": lambda x: tf.atan2(x, positive(x)),
    "squared_difference": lambda x: tf.math.squared_difference(x, tf.transpose(x)) ** 2,
    "xlogy": lambda x: tf.math.xlogy(x, positive(x)),
    "xlog1py": lambda x: tf.math.xlog1py(x, x**2),
    "expint": lambda x: tf.math.special.expint(positive(tf.tanh(x))),
    "xdivy": lambda x: tf.math.xdivy(x, positive(x)),
    "next_after": lambda x: tf.math.nextafter(x, tf.zeros_like(x)) ** 2,
    "zeta": lambda x: tf.math.zeta(tf.cast(3.0, x.dtype), positive(x)),
    "polygamma": lambda x: tf.math.polygamma(tf.cast(1.0, x.dtype), positive(x)),
    "igamma": lambda x: tf.math.igamma(tf.cast(2.0, x.dtype), positive(x)),
    "igammac": lambda x: tf.math.igammac(tf.cast(2.0, x.dtype), positive(x)),
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
}
