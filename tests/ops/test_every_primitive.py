"""What holds for every primitive, tried on its samples: gradients, dtypes, determinism, inputs left alone.

A primitive without samples, or without a gradient and a reason for that, fails.
"""

import importlib
import pkgutil
import zlib

import numpy as np
import pytest

import minidl.nn
import minidl.optim  # noqa: F401
from minidl import Tensor, as_tensor, ops
from minidl.autograd import gradients
from minidl.ops import primitives
from minidl.testing import gradcheck, gradgradcheck
from minidl.testing.samples import SAMPLES

for found in pkgutil.iter_modules(ops.__path__):  # whatever declares primitives
    importlib.import_module(f"minidl.ops.{found.name}")

NAMES = sorted(primitives)

_CONSTANT = "piecewise constant"
_BOOLEAN = "its result is boolean or integer"
NO_GRADIENT = {
    **dict.fromkeys(["ceil", "floor", "floor_divide", "ones_like", "round", "sign", "trunc", "zeros_like"], _CONSTANT),
    **dict.fromkeys(
        [
            "all", "any", "argmax", "argmin", "argsort", "eq", "greater", "greater_equal", "isfinite", "isnan",
            "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "nonzero", "not_equal",
            "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "checked_index",
            "one_hot", "random_bits", "random_integers", "random_normal",
            "random_permutation", "random_uniform",
            "bitwise_left_shift", "bitwise_right_shift", "gcd", "isinf", "lcm", "signbit",
        ],
        _BOOLEAN,
    ),
    **{name: "not in PyTorch either" for name in NAMES if "bessel" in name},
    **{name: "an optimizer's update, not part of a graph" for name in NAMES if name.endswith("_update")},
}  # fmt: skip
# checked in tests/nn, because its parameter is a function
NO_SAMPLES = {"hook_point"}
# further outputs are kept for the backward pass, and nobody differentiates them
DIFFERENTIABLE_OUTPUTS = {"cross_entropy": 1, "ctc_nll": 1, "gru": 2, "lstm": 3, "scaled_dot_product_attention": 1}
# what is documented to be a constant: class weights, the order of a function
DIFFERENTIABLE_INPUTS = {"cross_entropy": (0,), "igamma": (1,), "igammac": (1,), "zeta": (1,)}
# functions of symmetric matrices: finite differences must stay among those
SYMMETRIC = {"cholesky", "eigh"}

DIFFERENTIABLE = [n for n in NAMES if primitives[n].differentiable and n not in NO_SAMPLES]


def backward_of(name):
    """The primitive whose gradient ``name`` computes in one piece; second derivatives go through other operations."""
    forward = name.removesuffix("_grad").removesuffix("_backward")
    return {"attention": "scaled_dot_product_attention"}.get(forward, forward) if forward != name else None


def cases(name):
    return list(SAMPLES[name](np.random.default_rng(zlib.crc32(name.encode()))))


def function(name, params):
    """The primitive as a function of its inputs that returns what can be differentiated."""
    count = DIFFERENTIABLE_OUTPUTS.get(name)

    def f(*xs):
        if name in SYMMETRIC:
            xs = [0.5 * (x + ops.mT(x)) for x in xs]
        out = primitives[name](*xs, **params)
        return out[:count] if count else out

    return f


def has_float(args):
    return any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in args)


def as_tuple(out):
    return out if isinstance(out, tuple) else (out,)


def copied(args):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


@pytest.mark.parametrize("name", NAMES)
def test_has_samples_and_a_gradient_or_a_reason(name):
    assert name in SAMPLES or name in NO_SAMPLES, f"write samples for {name} in minidl/testing/samples"
    prim = primitives[name]
    if prim.differentiable:
        assert name not in NO_GRADIENT
        assert prim.rules or prim.joint, f"{name} has no gradient rule"
    elif name not in NO_GRADIENT:
        assert backward_of(name) in DIFFERENTIABLE, f"{name} has no gradient, and no reason for that is given here"


def test_no_stale_entries():
    assert set(SAMPLES) <= set(NAMES)
    assert set(NO_GRADIENT) <= set(NAMES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_SAMPLES))
def test_forward(name):
    """Deterministic; the same on Tensors, on other memory layouts and (to rounding) in float32; inputs unchanged."""
    for args, params in cases(name):
        before = copied(args)
        first = as_tuple(primitives[name](*args, **params))
        for a, b in zip(args, before):
            np.testing.assert_array_equal(a, b, err_msg="an input was changed")
        again = as_tuple(primitives[name](*args, **params))
        tensors = [as_tensor(a) if isinstance(a, np.ndarray) else a for a in args]
        recorded = as_tuple(primitives[name](*tensors, **params)) if args else first
        contiguous = [np.array(a, order="C") if isinstance(a, np.ndarray) else a for a in args]
        packed = as_tuple(primitives[name](*contiguous, **params))
        for x, y, z, w in zip(first, again, recorded, packed, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(x, np.asarray(z))
            np.testing.assert_allclose(x, w, rtol=1e-12, atol=1e-12)
        if has_float(args) and name != "astype":
            narrow = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in args]
            for x, y in zip(first, as_tuple(primitives[name](*narrow, **params)), strict=True):
                if np.asarray(x).dtype == np.float64:
                    assert y.dtype == np.float32, f"float32 became {y.dtype}"
                    if name not in SYMMETRIC | {"svd", "qr"}:  # signs of vectors may differ
                        np.testing.assert_allclose(y, x, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient(name):
    """Against central differences."""
    checked = 0
    for args, params in cases(name):
        out = as_tuple(primitives[name](*args, **params))
        if has_float(args) and any(np.asarray(o).dtype.kind == "f" for o in out):
            assert gradcheck(function(name, params), *args, wrt=DIFFERENTIABLE_INPUTS.get(name))
            checked += 1
    assert checked


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives(name):
    for args, params in cases(name):
        out = as_tuple(primitives[name](*args, **params))
        if has_float(args) and any(np.asarray(o).dtype.kind == "f" for o in out):
            gradgradcheck(function(name, params), *args, wrt=DIFFERENTIABLE_INPUTS.get(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_from_any_memory(name):
    """The gradient that comes in may be a broadcast, read-only array; float32 stays float32; inputs stay unchanged."""
    for args, params in cases(name):
        results = []
        for dtype, spread in ((np.float64, False), (np.float64, True), (np.float32, False)):
            xs = [
                as_tensor(a.astype(dtype), requires_grad=i in DIFFERENTIABLE_INPUTS.get(name, range(len(args))))
                if isinstance(a, np.ndarray) and a.dtype.kind == "f"
                else a
                for i, a in enumerate(args)
            ]
            wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
            if not wanted:
                break
            outs = [o for o in as_tuple(function(name, params)(*xs)) if o.requires_grad]
            if not outs:
                break
            gs = [
                as_tensor(np.broadcast_to(o.dtype.type(0.5), o.shape) if spread else np.full(o.shape, 0.5, o.dtype))
                for o in outs
            ]
            before = [x.array.copy() for x in wanted]
            found = gradients(outs, wanted, gs, allow_unused=True)
            for x, b, g in zip(wanted, before, found):
                np.testing.assert_array_equal(x.array, b)
                if g is not None and name != "astype":
                    assert g.dtype == dtype
                    assert g.shape == x.shape
            results.append([None if g is None else np.asarray(g) for g in found])
        if results:
            for packed, spread, narrow in zip(*results, strict=True):
                if packed is not None:
                    np.testing.assert_allclose(packed, spread, rtol=1e-12, atol=1e-12)
                    if name not in SYMMETRIC | {"svd", "qr"}:
                        np.testing.assert_allclose(packed, narrow, rtol=1e-3, atol=1e-4)
