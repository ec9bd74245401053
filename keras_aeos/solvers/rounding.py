"""The rounding of an operator's products, measured while they are used."""

from typing import Any, NamedTuple


class Rounding(NamedTuple):
    """What is measured of the rounding of an operator's products, during a solve.

    In exact arithmetic ``VᵀAV`` is symmetric. Of computed products, the largest difference a of two
    entries that should be equal shows how exact they are. It costs no product, and holds whatever
    happens inside the operator: half precision, TF32, cancellation. The
    factors below are empirical: they cover small networks in float32, float16 and bfloat16.

    All numbers are either NumPy's or tensors.

    Attributes:
        asymmetry: Largest difference a.
        zero: Magnitude below which an eigenvalue is zero to rounding, `zero` of the Ritz values.
    """

    asymmetry: Any
    zero: Any

    @property
    def of_values(self) -> Any:
        """Error of the Ritz values, ``15 a + 10 ε ‖A‖``."""
        return 15.0 * self.asymmetry + self.zero

    @property
    def of_residuals(self) -> Any:
        """Norm of the error of a residual, three times that of the values."""
        return 3.0 * self.of_values

    def met(self, norms: Any, values: Any, rtol: Any) -> Any:
        """Whether each error bound is at most `rtol`, or its value is zero to rounding."""
        nothing = (abs(values) <= self.zero) & (norms <= self.zero)
        return (norms + self.of_values <= rtol * abs(values)) | nothing

    def reached(self, norms: Any) -> Any:
        """Whether each residual norm is so small that further products improve nothing."""
        return norms <= self.of_values


def zero(largest: Any, epsilon: float) -> Any:
    """Magnitude below which an eigenvalue is zero to rounding, ``10 ε ‖A‖``.

    Args:
        largest: Largest magnitude of the Ritz values, for ``‖A‖``.
        epsilon: Spacing ε of the vectors' precision.
    """
    return 10.0 * epsilon * largest
