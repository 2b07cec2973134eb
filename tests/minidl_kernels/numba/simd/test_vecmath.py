"""Errors of the vectorizable functions, in units in the last place, against float64 or the C library."""

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")
scipy_special = pytest.importorskip("scipy.special")

from minidl_kernels.numba.simd import vecmath  # noqa: E402
from minidl_kernels.numba.simd.compiled import FASTMATH  # noqa: E402

REFERENCE = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": scipy_special.expit,
    "erf": scipy_special.erf,
    "normal_cdf": scipy_special.ndtr,
}
# largest error seen on the samples below, rounded up
ULP = {("exp", "f"): 2, ("log", "f"): 2, ("tanh", "f"): 3, ("sigmoid", "f"): 3, ("erf", "f"): 6,
       ("exp", "d"): 2, ("log", "d"): 1, ("tanh", "d"): 4, ("sigmoid", "d"): 3, ("erf", "d"): 4,
       ("normal_cdf", "f"): 12, ("normal_cdf", "d"): 14}  # fmt: skip


def mapped(name, kind):
    function = vecmath.FUNCTIONS[name, kind]

    @numba.njit(fastmath=set(FASTMATH), error_model="numpy")
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def call(x):
        out = np.empty_like(x)
        loop(x, out)
        return out

    call.loop = loop
    return call


def samples(name, dtype):
    rng = np.random.default_rng(0)
    wide = {
        "exp": 87.0 if dtype == np.float32 else 700.0,
        "log": 1e4,
        "tanh": 10.0,
        "sigmoid": 80.0,
        "erf": 4.5,
        "normal_cdf": 5.0,
    }[name]
    x = np.concatenate(
        [rng.uniform(-wide, wide, 200_000), rng.normal(size=200_000), rng.normal(size=20_000) * 1e-4, np.array([0.0])]
    )
    return np.abs(x).astype(dtype) if name == "log" else x.astype(dtype)


@pytest.mark.parametrize(("name", "kind"), sorted(vecmath.FUNCTIONS))
def test_error_in_ulp(name, kind):
    x = samples(name, np.dtype(kind))
    got = mapped(name, kind)(x)
    assert got.dtype == x.dtype
    with np.errstate(divide="ignore"):
        exact = REFERENCE[name](x.astype(np.float64))
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(got[~finite], exact[~finite])
    error = np.abs(got[finite].astype(np.float64) - exact[finite])
    ulp = error / np.spacing(np.abs(exact[finite]).astype(x.dtype))
    assert ulp.max() <= ULP[name, kind], f"{name} of {x[finite][ulp.argmax()]!r}: {ulp.max():.2f} ulp"


@pytest.mark.parametrize(("name", "kind"), sorted(vecmath.FUNCTIONS))
def test_special_values(name, kind):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 1e4, -1e4, 1e-40], np.dtype(kind))
    with np.errstate(all="ignore"):
        expected = REFERENCE[name](x.astype(np.float64)).astype(x.dtype)
    np.testing.assert_allclose(mapped(name, kind)(x), expected, rtol=1e-6, atol=1e-43)


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf"])
def test_loops_are_vectorized(name):
    call = mapped(name, "f")
    call(np.ones(8, np.float32))
    (code,) = call.loop.inspect_asm().values()
    if "ymm" not in code and "zmm" not in code and "xmm" not in code:
        pytest.skip("not an x86 processor: no vector registers to look for")
    assert any(f"{op}ps" in code for op in ("vmul", "mul", "vfmadd213", "vfmadd231", "vfmadd132"))
