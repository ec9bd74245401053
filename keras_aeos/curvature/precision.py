"""Full float32 precision while a curvature is computed."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_allowed = False


def allow_reduced_precision(allowed: bool = True) -> None:
    """Set whether curvature may be computed in less than the precision of its types.

    On recent GPUs TensorFlow multiplies float32 matrices in TF32, with 10 bits of mantissa instead
    of 23. Training is hardly affected, but a curvature is: its relative error is about 1e-3. By
    default `keras_aeos` turns TF32 and automatic mixed precision off while its own functions run,
    and back on afterwards.

    Args:
        allowed: Boolean. True (default) keeps what training uses, which is faster and less
            accurate; False restores the default.

    Example:
        >>> allow_reduced_precision()
        >>> reduced_precision_allowed()
        True
        >>> allow_reduced_precision(False)
    """
    global _allowed
    _allowed = bool(allowed)


def reduced_precision_allowed() -> bool:
    """Whether curvature may be computed in less than the precision of its types."""
    return _allowed


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Turn off TF32 and automatic mixed precision within this context, unless they are allowed.

    The settings of TensorFlow are process-wide. They are restored at the end, also after an
    exception. Contexts may be nested.
    """
    if _allowed:
        yield
        return
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    mixed = {
        name: True
        for name, value in tf.config.optimizer.get_experimental_options().items()
        if name.startswith("auto_mixed_precision") and value is True
    }
    try:
        if tf32:
            tf.config.experimental.enable_tensor_float_32_execution(False)
        if mixed:
            tf.config.optimizer.set_experimental_options(dict.fromkeys(mixed, False))
        yield
    finally:
        if tf32:
            tf.config.experimental.enable_tensor_float_32_execution(True)
        if mixed:
            tf.config.optimizer.set_experimental_options(mixed)
