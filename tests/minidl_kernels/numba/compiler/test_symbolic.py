"""Elementwise primitives, anybody's, are fused from their formulas, and give the formulas' values."""

import contextlib
import inspect

import numpy as np
import pytest
import scipy.special

pytest.importorskip("numba", reason="the compiler is Numba's")

import minidl
from minidl import as_tensor, ops
from minidl.core.primitive import primitive
from minidl.core.registry import namespace, primitives
from minidl.jit.program import Step, Value
from minidl_kernels.numba.compiler import rules, symbolic
from minidl_kernels.numba.compiler.expressions import UFUNCS

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 1e-6, 4.5, -7.5, 30.0, -100.0, np.inf, -np.inf, np.nan]


@pytest.fixture
def declare():
    """``primitive``, whose primitives are forgotten after the test."""
    known = set(primitives)
    yield primitive
    for name in set(primitives) - known:
        del primitives[name]


def compiled(jitted):
    """What the numba backend made of the only program."""
    found = jitted.entries[0].run
    return found


def check(function, *arrays, calls=1):
    """The jitted function gives the eager one's values, in so many calls; returns its compiled form."""
    with minidl.use_backend("numpy"), np.errstate(all="ignore"):
        expected = function(*map(as_tensor, arrays))
    with minidl.use_backend("numba"), np.errstate(all="ignore"):
        jitted = minidl.jit(function)
        for _ in range(2):
            found = jitted(*arrays)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    rtol = 2e-5 if found.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=rtol, atol=rtol)
    assert len(compiled(jitted).calls) == calls
    return compiled(jitted)


def fused(function, *arrays):
    """:func:`check`, and all of the program is one loop."""
    assert len(check(function, *arrays).items) == 1


def columns_and_rows(dtype):
    x = np.array(SPECIAL, dtype)
    return x[:, None], x[None, ::-1].copy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_formula_of_numpy_functions_is_fused(declare, dtype):
    @declare(elementwise=True, promote="float")
    def swoosh(x, y, *, slope=0.25):
        xp = namespace(x)
        with np.errstate(all="ignore"):
            out = xp.where(x > 0, xp.log1p(xp.exp(-xp.abs(x))), x.dtype.type(slope) * x) / (1 + y**2)
            out += xp.clip(y, -1, None).astype(x.dtype)
            return xp.maximum(out, -x)

    x, y = columns_and_rows(dtype)
    fused(lambda x, y: ops.tanh(swoosh(x, y, slope=0.5)) * 2 + x, x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_formula_of_primitives_is_fused(declare, dtype):
    @declare(elementwise=True, promote="float")
    def gated(x, y):
        return ops.where(ops.isnan(x), ops.gelu(y), x * ops.sigmoid(y) + ops.softplus(x - 1, beta=2.0))

    x, y = columns_and_rows(dtype)
    fused(lambda x, y: (gated(x, y) + y).square(), x, y)


def test_gradients_go_through_the_loop(declare):
    @declare(elementwise=True)
    def cube(x):
        return x * x * x

    cube.defvjp(x=lambda g, x: g * 3 * x * x)

    def slope(x):
        leaf = minidl.as_tensor(np.zeros(3, np.float32), requires_grad=True)
        cube(leaf + x).sum().backward()
        return leaf.grad

    with minidl.use_backend("numba"):
        jitted = minidl.jit(slope)
        for _ in range(2):
            found = jitted(np.arange(3, dtype=np.float32))
    np.testing.assert_allclose(found.numpy(), [0, 3, 12])


def test_integers_and_booleans_follow_numpy(declare):
    @declare(elementwise=True)
    def mixed(i, b, x):
        return np.where(b & (i > 2), x * 0.5 + i, ~b)

    i, x = np.arange(8), np.linspace(-1, 1, 8, dtype=np.float32)
    # NumPy's dtypes, not minidl's: int64 and float32 make float64
    fused(lambda i, b, x: mixed(i, b, x), i, i % 3 == 0, x)

    @declare(elementwise=True)
    def wraps(u):
        return u + u * 2

    fused(lambda u: wraps(u), np.array([1, 100, 200, 255], np.uint8))


def test_live_numbers_stay_live(declare):
    @declare(elementwise=True)
    def scaled(x, factor):
        return x * factor + factor

    rate = np.array([2])  # a list would be watched, and the step captured anew
    x = np.arange(3, dtype=np.float32)
    with minidl.use_backend("numba"):
        from minidl.core.trace import live

        jitted = minidl.jit(lambda x: scaled(x, live(lambda: float(rate[0]) * 0.5)) + 1)
        for _ in range(3):
            rate[0] += 1
            np.testing.assert_allclose(jitted(x).numpy(), (x + 1) * rate[0] * 0.5 + 1)
        assert len(compiled(jitted).items) == 1


FORMULAS = {
    "looks at a value": lambda x: x + 1 if x[0] > 0 else x - 1,
    "asks NumPy for the array": lambda x: x + np.asarray(x),
    "takes a function that has no element": lambda x: x + np.sort(np.array([2.0], np.float32))[0] * np.sign(x) // 1,
    "branches": lambda x: x * 2 if (x > 0).any() else x,
    "changes memory": lambda x: np.add(x, 1, where=x > 0, out=np.zeros_like(x)),
    "an unknown function": lambda x: np.nan_to_num(x),
}


@pytest.mark.parametrize("what", FORMULAS)
def test_other_formulas_are_called(declare, what):
    strange = declare(FORMULAS[what], name="strange", elementwise=True)
    x = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
    assert len(check(lambda x: strange(x * 2) + 1, x, calls=3).items) == 3


def test_what_is_not_declared_elementwise_is_called(declare):
    @declare
    def plain(x):
        return x * 2

    check(lambda x: plain(x + 1) + 1, np.ones(3, np.float32), calls=3)


def test_a_registered_expression_comes_before_the_formula(declare, monkeypatch):
    @declare(elementwise=True)
    def thrice(x, *, plus=0):
        return x + x + x + plus

    monkeypatch.setattr(rules, "EXPRESSIONS", dict(rules.EXPRESSIONS))
    monkeypatch.setattr(symbolic, "EXPRESSIONS", rules.EXPRESSIONS)
    rules.expression("thrice")(lambda char, plus: "(3 * {0} + {one})" if plus == 1 else None)
    inputs = [Value(0, "input", (2,), np.dtype(np.float32))]
    out = [Value(1, "computed", (2,), np.dtype(np.float32))]
    assert symbolic.expression(Step(thrice, inputs, {"plus": 1}, out)).lines == (("f", "(3 * {0} + np.float32(1.0))"),)
    assert len(symbolic.expression(Step(thrice, inputs, {"plus": 2}, out)).lines) == 3
    fused(lambda x: thrice(x, plus=1) * 2, np.arange(3, dtype=np.float32))


def samples(char, count):
    if np.dtype(char).kind == "f":
        x = np.array(SPECIAL * 2, np.float64)
    else:
        x = np.arange(24) % 2 == 0 if char == "?" else np.arange(24) % 5
    return [a.astype(char) for a in (x, np.roll(x, 7))[:count]]


@pytest.mark.parametrize("char", "fdlB?")
def test_ufuncs(declare, char):
    """Each text gives NumPy's values in every kind of number that it is for."""
    expected, prims = {}, {}
    for name in UFUNCS:
        ufunc = getattr(np, name, None) or getattr(scipy.special, name)
        formula = (lambda x, f=ufunc: f(x)) if ufunc.nin == 1 else (lambda x, y, f=ufunc: f(x, y))
        arrays = samples(char, ufunc.nin)
        with np.errstate(all="ignore"), contextlib.suppress(TypeError):  # where NumPy has no such function
            out = formula(*arrays)
            prim = declare(
                lambda x, y=None, f=formula: f(x) if y is None else f(x, y), name=name + "_", elementwise=True
            )
            inputs = [Value(k, "input", a.shape, a.dtype) for k, a in enumerate(arrays)] + [None] * (2 - ufunc.nin)
            code = symbolic.expression(Step(prim, inputs, {}, [Value(9, "computed", out.shape, out.dtype)]))
            assert code is not None or char not in "fd", name
            if code is not None:
                expected[name], prims[name] = out, (prim, ufunc.nin)
    with minidl.use_backend("numba"), np.errstate(all="ignore"):
        jitted = minidl.jit(lambda *xs: {name: prim(*xs[:nin]) for name, (prim, nin) in prims.items()})
        for _ in range(2):
            found = jitted(*samples(char, 2))
    assert len(found) > 15
    for name, out in expected.items():
        assert found[name].dtype == out.dtype, name
        rtol = 3e-6 if out.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(found[name].numpy(), out, rtol=rtol, atol=1e-37, err_msg=name)


#: elementwise primitives of integers
INTEGERS = {"gcd", "lcm", "bitwise_left_shift", "bitwise_right_shift"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_our_primitives(dtype):
    """Elementwise primitives of minidl are fused, but for those that the compiler has no scalar function for, and give
    their formulas' values."""
    rng = np.random.default_rng(0)
    x = [rng.uniform(0.05, 0.95, 50).astype(dtype) for _ in range(3)]
    called, expected, prims = [], {}, {}
    for name, prim in primitives.items():
        needs = any(v is inspect.Parameter.empty for v in prim.defaults.values())
        if (
            not prim.elementwise
            or prim.donated
            or prim.identity
            or needs
            or name.startswith(("logical", "bitwise"))
            or name in INTEGERS
        ):
            continue
        arrays = x[: len(prim.inputs)]
        out = np.asarray(prim.reference(*arrays))
        inputs = [Value(k, "input", a.shape, a.dtype) for k, a in enumerate(arrays)]
        if symbolic.expression(Step(prim, inputs, {}, [Value(99, "computed", out.shape, out.dtype)])) is None:
            called.append(name)
        expected[name], prims[name] = out, prim
    # the special functions are SciPy's
    called = [name for name in called if primitives[name].__module__ != "minidl.ops.special"]
    assert called == ["floor_divide", "remainder", "fmod", "exp2", "nextafter", "signbit"] and len(prims) > 50
    with minidl.use_backend("numba"):
        jitted = minidl.jit(lambda *xs: {name: prim(*xs[: len(prim.inputs)]) for name, prim in prims.items()})
        for _ in range(2):
            found = jitted(*x)
    for name, out in expected.items():
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(found[name].numpy(), out, rtol=rtol, err_msg=name)
