"""Calls of TensorFlow whose second derivatives are compared with differences of the gradient."""

from tools.benchmarking.samples import arrays, elementwise, linear_algebra, networks, rare
from tools.benchmarking.samples.inputs import Sample
from tools.benchmarking.samples.once import ONCE

__all__ = ["ONCE", "SAMPLES", "SINGLE", "Sample"]

# In float64.
SAMPLES: dict[str, Sample] = {
    **elementwise.SAMPLES,
    **arrays.SAMPLES,
    **linear_algebra.SAMPLES,
    **networks.SAMPLES,
    **rare.SAMPLES,
}
# In float32.
SINGLE: dict[str, Sample] = networks.SINGLE | rare.SINGLE
