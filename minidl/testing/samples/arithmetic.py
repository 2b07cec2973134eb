"""Samples for further elementwise arithmetic and special functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.testing.samples.elementwise import _away_from_zero, _binary, _normal, _positive, _unary
from minidl.testing.samples.registry import Sample, samples


def _whole(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.integers(0, 12, shape)


def _uniform(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape)


samples("exp2", "i0", "i0e", "i1", "i1e", "isinf", "signbit", "trunc", "erfc", "erfcx", "log_ndtr", "frexp")(
    _unary(_normal)
)
samples("log10", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "modified_bessel_k0", "modified_bessel_k1")(
    _unary(_positive)
)
samples("scaled_modified_bessel_k0", "scaled_modified_bessel_k1", "lgamma", "digamma")(_unary(_positive))
samples("erfinv")(_unary(_uniform(-0.9, 0.9)))
samples("ndtri")(_unary(_uniform(0.1, 0.9)))

samples("fmod")(_binary(lambda rng, s: 3 * rng.normal(size=s), _away_from_zero))
samples("xlogy", "xlog1py")(_binary(_normal, _positive))
samples("atan2", "hypot", "copysign", "nextafter")(_binary(_away_from_zero, _away_from_zero))
samples("igamma", "igammac")(_binary(_positive, _positive, scalars=False))
samples("zeta")(_binary(_uniform(1.5, 3), _positive, scalars=False))


@samples("gcd", "lcm", "bitwise_left_shift", "bitwise_right_shift")
def _integers(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _binary(_whole, lambda r, s: r.integers(0, 8, s), scalars=False)(rng)
    yield (_whole(rng, (2, 3)), 3), {}


@samples("polygamma")
def _polygamma(rng: np.random.Generator) -> Iterator[Sample]:
    for n in (0, 1, 2):
        yield (_positive(rng, (2, 3)),), {"n": n}
    yield (np.asarray(-0.3),), {"n": 1}
    yield (_positive(rng, (0, 3)),), {"n": 1}
