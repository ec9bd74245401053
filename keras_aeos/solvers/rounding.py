"""The rounding of an operator's products, measured while they are used."""

import numpy as np
import tensorflow as tf


class Rounding:
    """What is measured of the rounding of an operator's products, during a solve.

    In exact arithmetic ``VᵀAV`` is symmetric. Of computed products, the largest difference a of two
    entries that should be equal shows how exact they are. It costs no product, and holds whatever
    happens inside the operator: half precision, TF32, cancellation. The
    factors below are empirical: they cover small networks in float32, float16 and bfloat16.

    Args:
        dtype: Precision of the vectors.
    """

    def __init__(self, dtype: tf.DType) -> None:
        self._epsilon = float(np.finfo(dtype.as_numpy_dtype).eps)
        self._asymmetry = 0.0

    def compare(self, found: np.ndarray, expected: np.ndarray) -> None:
        """Take note of entries of ``VᵀAV`` and of what symmetry makes of them."""
        self._asymmetry = max(self._asymmetry, float(np.abs(found - expected).max(initial=0.0)))

    def zero(self, values: np.ndarray) -> float:
        """Magnitude below which an eigenvalue is zero to rounding, ``10 ε ‖A‖``."""
        return 10.0 * self._epsilon * float(np.abs(values).max())

    def of_values(self, values: np.ndarray) -> float:
        """Error of the Ritz values, ``15 a + 10 ε ‖A‖``."""
        return 15.0 * self._asymmetry + self.zero(values)

    def of_residuals(self, values: np.ndarray) -> float:
        """Norm of the error of a residual, three times that of the values."""
        return 3.0 * self.of_values(values)

    def met(self, norms: np.ndarray, values: np.ndarray, rtol: float) -> np.ndarray:
        """Whether each error bound is at most `rtol`, or its value is zero to rounding."""
        errors = norms + self.of_values(values)
        zero = self.zero(values)
        nothing = (np.abs(values) <= zero) & (norms <= zero)
        return (errors <= rtol * np.abs(values)) | nothing

    def reached(self, norms: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Whether each residual norm is so small that further products improve nothing."""
        return norms <= self.of_values(values)
