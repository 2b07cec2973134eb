"""Winograd's convolution on numba: accuracy, borders, and when it is used."""

import itertools

import numpy as np
import pytest

from minidl.backend import load
from minidl.ops import primitives
from minidl.testing.pytest_plugin import conformance_tests

REASON = "the numba backend needs numba (pip install 'minidl[numba]')"
winograd = pytest.importorskip("minidl_kernels.numba.kernels.winograd", reason=REASON)
winograd_loops = pytest.importorskip("minidl_kernels.numba.kernels.winograd_loops", reason=REASON)

test_conformance = conformance_tests(
    "numba", module="minidl_kernels.numba.kernels.winograd", dtypes=["float32"], max_examples=200
)


@pytest.fixture(autouse=True)
def every_size(request, monkeypatch):
    """The conformance suite is to see small images as well."""
    if request.function is test_conformance:
        monkeypatch.setattr(winograd, "faster", lambda *sizes: True)


L = winograd.L
SAME = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def both(rng, n, inputs, outputs, size, padding=(1, 1)):
    """For each primitive, its name, Winograd's result and the reference's in float64."""
    params = {**SAME, "padding": padding}
    x = rng.standard_normal((n, inputs, *size), dtype=np.float32)
    weight = rng.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
    bias = rng.standard_normal(outputs, dtype=np.float32)
    out_size = tuple(m + 2 * p - 2 for m, p in zip(size, padding))
    g = rng.standard_normal((n, outputs, *out_size), dtype=np.float32)
    for name, function, arrays, more in (
        ("conv2d", winograd.convolve, (x, weight, None), {}),
        ("conv2d", winograd.convolve, (x, weight, bias), {}),
        ("conv2d_input_grad", winograd.input_grad, (g, weight), {"input_size": size}),
        ("conv2d_weight_grad", winograd.weight_grad, (g, x), {"kernel_size": (3, 3)}),
    ):
        exact = [None if a is None else a.astype(np.float64) for a in arrays]
        yield name, function(*arrays, **params, **more), primitives[name].reference(*exact, **params, **more)


@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "size", "padding"),
    [
        (1, L, L, (4, 4), (1, 1)),  # one tile
        (1, L, 3 * L, (1, 1), (1, 1)),  # less than a tile
        (2, 2 * L, L, (2, 3), (2, 2)),
        (3, 3 * L, 2 * L, (9, 13), (0, 1)),  # tiles that stand over
        (2, L, L, (3, 30), (0, 0)),
        (5, 4 * L, 2 * L, (12, 5), (1, 1)),  # weights' gradient with all tiles in memory
        (2, L, 2 * L, (44, 36), (1, 1)),  # and a few at a time
        (9, L, 8 * L, (4, 4), (1, 1)),  # more outputs than tiles
    ],
)
def test_against_direct_convolution(rng, n, inputs, outputs, size, padding):
    for name, found, exact in both(rng, n, inputs, outputs, size, padding):
        assert found.dtype == np.float32 and found.shape == exact.shape
        assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max(), name


def test_largest_error_is_the_one_stated(rng):
    """What ``winograd.ERROR`` says, on the layers of a ResNet-18, where sums are longest."""
    worst = 0.0
    for n, channels, size in ((2, 64, 32), (4, 128, 16), (8, 256, 8), (16, 512, 4)):
        for name, found, exact in both(rng, n, channels, channels, (size, size)):
            error = np.abs(found - exact).max() / np.abs(exact).max()
            assert error <= winograd.ERROR, name
            worst = max(worst, error)
    assert worst > winograd.ERROR / 10  # nor is the statement far too careful


def test_the_algorithm_is_exact_in_exact_arithmetic():
    rng = np.random.default_rng(0)
    for points, outputs in (((0.0, 1.0, -1.0), 2), ((0.0, 1.0, -1.0, 2.0, -2.0), 4)):
        at, bt, g = winograd_loops.matrices(points, outputs, 3)
        w, d = rng.normal(size=3), rng.normal(size=outputs + 2)
        np.testing.assert_allclose(at @ ((g @ w) * (bt @ d)), np.correlate(d, w), atol=1e-12)


def served_by(name, *arrays, **params):
    kernels = load("numba").kernels[name]
    return next(k for k in kernels if k.when(*arrays, **params)).function.__module__.rsplit(".")[-1]


def test_when_it_is_used(rng, monkeypatch):
    x = rng.standard_normal((2, L, 12, 12), dtype=np.float32)
    weight = rng.standard_normal((2 * L, L, 3, 3), dtype=np.float32)
    assert served_by("conv2d", x, weight, None, **SAME) == "winograd"
    for change in ({"stride": (2, 1)}, {"dilation": (1, 2)}, {"padding": (3, 1)}):
        assert served_by("conv2d", x, weight, None, **{**SAME, **change}) == "conv"
    assert served_by("conv2d", x.astype(np.float64), weight.astype(np.float64), None, **SAME) == "conv"
    assert served_by("conv2d", x, weight[:5], None, **SAME) == "conv"
    assert served_by("conv2d", x[:1, :, :2, :2], weight, None, **SAME) == "conv"
    assert served_by("conv2d", x, weight[:, :, :1], None, **SAME) == "conv"
    monkeypatch.setattr(winograd, "enabled", False)
    g = rng.standard_normal((2, 2 * L, 12, 12), dtype=np.float32)
    assert served_by("conv2d", x, weight, None, **SAME) == "conv"
    assert served_by("conv2d_input_grad", g, weight, input_size=(12, 12), **SAME) == "conv"
    assert served_by("conv2d_weight_grad", g, x, kernel_size=(3, 3), **SAME) == "conv"


def test_same_bits_on_any_number_of_threads_and_into_given_memory(agree, rng):
    tolerance = {"rtol": 1e-3, "atol": winograd.ERROR}
    for n, channels, size in itertools.product((1, 6), (L, 4 * L), (7, 24)):
        x, g = rng.standard_normal((2, n, channels, size, size), dtype=np.float32)
        weight = rng.standard_normal((channels, channels, 3, 3), dtype=np.float32)
        agree("conv2d", x, weight, None, **SAME, **tolerance)
        agree("conv2d_input_grad", g, weight, input_size=(size, size), **SAME, **tolerance)
        agree("conv2d_weight_grad", g, x, kernel_size=(3, 3), **SAME, **tolerance)


def test_a_nan_stays_in_its_tile(rng):
    x = rng.standard_normal((2, L, 16, 16), dtype=np.float32)
    weight = rng.standard_normal((L, L, 3, 3), dtype=np.float32)
    x[1, 3, 6, 6] = np.nan
    out = winograd.convolve(x, weight, None, **SAME)
    assert np.isfinite(out[0]).all() and np.isnan(out[1, :, 5:8, 5:8]).all()
    assert np.isfinite(out[1, :, :4]).all() and np.isfinite(out[1, :, :, 8:]).all()
