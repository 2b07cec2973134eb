"""Elementwise loops on numba."""

import numpy as np
import pytest

from minidl.backend import load
from minidl.ops import primitives
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

from minidl_kernels.numba.kernels.elementwise import LEAST_SIZE

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.elementwise", max_examples=20)

PARAMS = {
    "gelu": [{"approximate": "none"}, {"approximate": "tanh"}],
    "gelu_grad": [{"approximate": "none"}, {"approximate": "tanh"}],
    "leaky_relu": [{"negative_slope": 0.2}],
    "leaky_relu_grad": [{"negative_slope": 0.2}],
}
CALLS = [(name, params) for name in LEAST_SIZE for params in PARAMS.get(name, [{}])]


def _inputs(name, params, x, g):
    """Inputs that belong together: some gradients are taken at the output."""
    if len(primitives[name].inputs) == 1:
        return [x]
    at_output = "out" in primitives[name].inputs
    return [g, primitives[name.removesuffix("_grad")].reference(x) if at_output else x]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "params"), CALLS)
def test_large_arrays(agree, rng, name, params, dtype):
    shape = (LEAST_SIZE[name] // 40 + 900, 41)  # enough for threads
    x, g = (rng.normal(size=shape).astype(dtype) * 3 for _ in range(2))
    agree(name, *_inputs(name, params, x, g), **params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "params"), CALLS)
def test_odd_values_and_small_sizes(name, params, dtype):
    """Below the sizes from which the kernels are used, too: the loops themselves have no least size."""
    function = load("numba").kernels[name][0].function
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 90.0, -90.0, 1e-30], dtype)
    for x in (odd, odd[3:4], odd[:0], odd[5].reshape(())):
        with np.errstate(all="ignore"):
            inputs = _inputs(name, params, np.asarray(x), np.full(x.shape, 2, dtype))
            expected = primitives[name].reference(*inputs, **params)
        found = function(*inputs, **params)
        assert (found.shape, found.dtype) == (x.shape, dtype)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-37)


def test_unknown_parameters_are_refused():
    with pytest.raises(ValueError, match="gelu"):
        load("numba").kernels["gelu"][0].function(np.ones(3), approximate="erf")


def test_what_is_left_to_the_reference(rng):
    kernels = load("numba").kernels
    x = rng.normal(size=(100, 100))
    assert kernels["sigmoid_grad"][0].when(x, x)
    assert not kernels["sigmoid_grad"][0].when(x, x[0])
    assert not kernels["sigmoid_grad"][0].when(x, x.astype(np.float32))
    assert not kernels["sigmoid_grad"][0].when(x[:5], x[:5])
    assert not kernels["sigmoid"][0].when(x.T)
    assert not kernels["sigmoid"][0].when(2.0)
