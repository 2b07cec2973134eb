"""Sample inputs for every primitive, for tests of gradients and of kernels.

``SAMPLES[name](rng)`` yields ``(args, params)`` pairs: float64 arrays (integer and boolean ones where the primitive
wants them), with broadcast, 0-d, zero-size and non-contiguous inputs among them, and small enough for finite
differences. Floating-point values keep away from kinks, poles and ties by being random.

A kernel package adds entries for primitives of its own with :func:`samples`.
"""

from minidl.testing.samples import arithmetic, arrays, elementwise, layers
from minidl.testing.samples.registry import SAMPLES, Sample, samples, strided, transposed
