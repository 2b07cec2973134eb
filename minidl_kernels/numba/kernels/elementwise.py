"""Elementwise primitives whose formula takes several passes or a slow function, as flat loops over large arrays.

The loops are put together from the primitives' scalar code (:mod:`minidl_kernels.numba.compiler.symbolic`), as the
fused ones of ``minidl.jit`` are, when a primitive is first called with such a dtype and parameters. What NumPy does in
one pass by itself (addition, comparison, tanh with its vector instructions …) is left to it. Where a primitive has
quicker code than its formula says, it is registered here, for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import kernel
from minidl.ops import primitives
from minidl_kernels.numba.compiler.cache import load_source, with_header
from minidl_kernels.numba.compiler.expressions import NUMBA_TYPES, constant
from minidl_kernels.numba.compiler.rules import expression
from minidl_kernels.numba.compiler.symbolic import of_primitive
from minidl_kernels.numba.simd import vecmath
from minidl_kernels.numba.simd.common import over_rows, plain

expression("erf", "vecmath.erf{bits}({0})")
expression("sigmoid", "vecmath.sigmoid{bits}({0})")
expression("normal_cdf", "vecmath.normal_cdf{bits}({0})")
expression("silu", "({0} * vecmath.sigmoid{bits}({0}))")
expression("silu_grad", "({0} * vecmath.silu_slope{bits}({1}))")


@expression("leaky_relu")
def _leaky_relu(char: str, *, negative_slope: float) -> str:
    return f"({{0}} if {{0}} > {{zero}} else {constant(negative_slope, char)} * {{0}})"


@expression("leaky_relu_grad")
def _leaky_relu_grad(char: str, *, negative_slope: float) -> str:
    return f"({{0}} * ({{one}} if {{1}} > {{zero}} else {constant(negative_slope, char)}))"


@expression("gelu")
def _gelu(char: str, *, approximate: str) -> str | None:
    if approximate == "none":
        return "({0} * vecmath.normal_cdf{bits}({0}))"
    if approximate != "tanh":
        return None
    scale, cubic, half = constant(vecmath.GELU_SCALE, char), constant(vecmath.GELU_CUBIC, char), constant(0.5, char)
    inner = f"{scale} * {{0}} * ({{one}} + {cubic} * ({{0}} * {{0}}))"
    return f"({half} * {{0}} * ({{one}} + vecmath.tanh{{bits}}({inner})))"


@expression("gelu_grad")
def _gelu_grad(char: str, *, approximate: str) -> str:
    slope = "gelu_slope" if approximate == "none" else "gelu_tanh_slope"
    return f"({{0}} * vecmath.{slope}{{bits}}({{1}}))"


#: the number of elements from which our loop is quicker than NumPy's functions, measured on one thread
LEAST_SIZE = {
    "relu": 4096,
    "relu_grad": 4096,
    "leaky_relu": 1,
    "leaky_relu_grad": 1,
    "exp": 1,
    "sigmoid": 1,
    "sigmoid_grad": 2048,
    "tanh_grad": 2048,
    "erf": 256,
    "normal_cdf": 256,
    "gelu": 1,
    "gelu_grad": 1,
    "silu": 1,
    "silu_grad": 1,
}

_compiled: dict[tuple, tuple[Any, Any]] = {}


def _loops(name: str, params: dict[str, Any], dtype: np.dtype) -> tuple[Any, Any]:
    """The compiled loop over a part of the arrays, and the one that divides them between threads."""
    prim = primitives[name]
    count = len(prim.inputs)
    code = of_primitive(prim, params, dtype)
    if code is None:
        raise ValueError(f"{name}: unexpected parameters {params}")
    arrays = [*(f"a{k}" for k in range(count)), "out"]
    names = ", ".join(arrays)
    parts = ", ".join(f"{a}[start:stop]" for a in arrays)
    values = [f"x{k}" for k in range(count + len(code.lines))]
    body = [f"{values[k]} = a{k}[i]" for k in range(count)]
    for value, (char, text) in zip(values[count:], code.lines):
        body.append(f"{value} = {NUMBA_TYPES[char]}({text.format(*values)})")
    lines = "".join(f"        {line}\n" for line in [*body, f"out[i] = {values[-1]}"])
    source = with_header(
        "@compiled\n"
        f"def part({names}, start, stop):\n"
        f"    {names} = {parts}\n"
        f"    for i in range(out.size):\n{lines}\n\n"
        "@compiled(parallel=True)\n"
        f"def pieces({names}, count):\n"
        f"    for c in prange(count):\n"
        f"        part({names}, c * out.size // count, (c + 1) * out.size // count)\n"
    )
    module = load_source(source)
    return module.part, module.pieces


def _register(name: str, least: int) -> None:
    if len(primitives[name].inputs) == 1:

        def when(x: Any, **params: Any) -> bool:
            return type(x) is np.ndarray and x.size >= least and plain(x)

        def run(x: np.ndarray, *, out: Any = None, **params: Any) -> np.ndarray:
            result = np.empty(x.shape, x.dtype) if out is None else out[0]
            key = (name, x.dtype.char, *params.values())
            loops = _compiled.get(key)
            if loops is None:
                loops = _compiled[key] = _loops(name, params, x.dtype)
            over_rows(*loops, x.size, x.size, x.reshape(-1), result.reshape(-1))
            return result
    else:

        def when(x: Any, y: Any, **params: Any) -> bool:
            return type(x) is np.ndarray and x.size >= least and plain(x, y) and x.shape == y.shape

        def run(x: np.ndarray, y: np.ndarray, *, out: Any = None, **params: Any) -> np.ndarray:
            result = np.empty(x.shape, x.dtype) if out is None else out[0]
            key = (name, x.dtype.char, *params.values())
            loops = _compiled.get(key)
            if loops is None:
                loops = _compiled[key] = _loops(name, params, x.dtype)
            over_rows(*loops, x.size, x.size, x.reshape(-1), y.reshape(-1), result.reshape(-1))
            return result

    when.__doc__ = f"float32 or float64, C-contiguous, {least} elements or more" + ("" if least > 1 else " (any size)")
    run.__name__ = run.__qualname__ = name
    kernel(name, backend="numba", when=when, dtypes=("float32", "float64"), note="one pass", out=True)(run)


for _name, _least in LEAST_SIZE.items():
    _register(_name, _least)
