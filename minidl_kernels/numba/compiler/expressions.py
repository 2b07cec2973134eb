"""Elementwise primitives as scalar expressions: what one element of the output is.

An expression is a format string over the inputs ``{0}``, ``{1}`` …, written by a function of (static parameters, output
dtype character). It must say the same as the primitive's reference; the fused kernels of ``minidl.jit`` are put
together from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

#: primitive name -> function(params, dtype char of the output, dtype chars of the inputs) -> format string
EXPRESSIONS: dict[str, Callable[[dict, str, list[str]], str | None]] = {}

NUMBA_TYPES = {
    "f": "np.float32", "d": "np.float64", "?": "np.bool_", "b": "np.int8", "h": "np.int16", "i": "np.int32",
    "l": "np.int64", "q": "np.int64", "B": "np.uint8", "H": "np.uint16", "I": "np.uint32", "L": "np.uint64",
}  # fmt: skip


def constant(value: Any, char: str) -> str:
    """A Python number as a literal of the dtype."""
    if char in "fd":
        value = float(value)
        text = (
            "np.nan" if math.isnan(value) else f"{'-' if value < 0 else ''}np.inf" if math.isinf(value) else repr(value)
        )
        return f"{NUMBA_TYPES[char]}({text})"
    return f"{NUMBA_TYPES[char]}({int(value)})"


def _same(text: str) -> Callable[[dict, str, list[str]], str]:
    return lambda params, out, ins: text


for _name, _text in {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "neg": "(-{0})",
    "square": "({0} * {0})",
    "abs": "abs({0})",
    "equal": "({0} == {1})",
    "not_equal": "({0} != {1})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "logical_and": "({0} & {1})",
    "logical_or": "({0} | {1})",
    "logical_xor": "({0} ^ {1})",
    "isnan": "({0} != {0})",
    # NaN wins, as in NumPy
    "maximum": "({0} if ({0} > {1}) | ({0} != {0}) else {1})",
    "minimum": "({0} if ({0} < {1}) | ({0} != {0}) else {1})",
    "where": "({1} if {0} else {2})",
    "astype": "{0}",
}.items():
    EXPRESSIONS[_name] = _same(_text)


def _float_only(name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register an expression that is right for float32 and float64 outputs only."""

    def register(f: Callable[..., str]) -> Callable[..., str]:
        EXPRESSIONS[name] = lambda params, out, ins: f(params, out) if out in "fd" else None
        return f

    return register


_float_only("div")(lambda p, out: "({0} / {1})")
_float_only("sqrt")(lambda p, out: "np.sqrt({0})")
_float_only("rsqrt")(lambda p, out: f"({constant(1, out)} / np.sqrt({{0}}))")
_float_only("floor")(lambda p, out: "np.floor({0})")
_float_only("ceil")(lambda p, out: "np.ceil({0})")
_float_only("sin")(lambda p, out: "math.sin({0})")
_float_only("cos")(lambda p, out: "math.cos({0})")
_float_only("log1p")(lambda p, out: "math.log1p({0})")
_float_only("expm1")(lambda p, out: "math.expm1({0})")
_float_only("relu_grad")(lambda p, out: f"({{0}} * {NUMBA_TYPES[out]}({{1}} > {constant(0, out)}))")
_float_only("tanh_grad")(lambda p, out: f"({{0}} * ({constant(1, out)} - {{1}} * {{1}}))")
_float_only("sigmoid_grad")(lambda p, out: f"({{0}} * ({{1}} * ({constant(1, out)} - {{1}})))")
for _name in ("exp", "log", "tanh", "sigmoid", "erf"):
    _float_only(_name)(lambda p, out, name=_name: f"{name}{'32' if out == 'f' else '64'}({{0}})")


@_float_only("relu")
def _relu(p: dict, out: str) -> str:
    zero = constant(0, out)
    return f"({{0}} if ({{0}} > {zero}) | ({{0}} != {{0}}) else {zero})"


@_float_only("sign")
def _sign(p: dict, out: str) -> str:
    zero, one = constant(0, out), constant(1, out)
    return f"({one} if {{0}} > {zero} else (-{one} if {{0}} < {zero} else {{0}} * {zero}))"


@_float_only("pow")
def _pow(p: dict, out: str) -> str:
    return "({0} ** {1})"


@_float_only("clip")
def _clip(p: dict, out: str) -> str:
    text = "{0}"
    if p.get("min") is not None:
        low = constant(p["min"], out)
        text = f"({low} if {text} < {low} else {text})"
    if p.get("max") is not None:
        high = constant(p["max"], out)
        text = f"({high} if {text} > {high} else {text})"
    return text


@_float_only("leaky_relu")
def _leaky_relu(p: dict, out: str) -> str:
    slope = constant(p.get("negative_slope", 0.01), out)
    return f"({{0}} if {{0}} > {constant(0, out)} else {slope} * {{0}})"


@_float_only("silu")
def _silu(p: dict, out: str) -> str:
    return f"({{0}} * sigmoid{'32' if out == 'f' else '64'}({{0}}))"


@_float_only("normal_cdf")
def _normal_cdf(p: dict, out: str) -> str:
    return f"normal_cdf{'32' if out == 'f' else '64'}({{0}})"


@_float_only("gelu")
def _gelu(p: dict, out: str) -> str | None:
    if p.get("approximate", "none") == "none":
        return f"({{0}} * {_normal_cdf(p, out)})"
    if p["approximate"] != "tanh":
        return None
    scale, cubic = constant(math.sqrt(2 / math.pi), out), constant(0.044715, out)
    half, one = constant(0.5, out), constant(1, out)
    inner = f"{scale} * {{0}} * ({one} + {cubic} * ({{0}} * {{0}}))"
    return f"({half} * {{0}} * ({one} + tanh{'32' if out == 'f' else '64'}({inner})))"


@_float_only("gelu_grad")
def _gelu_grad(p: dict, out: str) -> str:
    slope = "gelu_slope" if p.get("approximate", "none") == "none" else "gelu_tanh_slope"
    return f"({{0}} * {slope}{'32' if out == 'f' else '64'}({{1}}))"


@_float_only("silu_grad")
def _silu_grad(p: dict, out: str) -> str:
    return f"({{0}} * silu_slope{'32' if out == 'f' else '64'}({{1}}))"


@_float_only("leaky_relu_grad")
def _leaky_relu_grad(p: dict, out: str) -> str:
    return f"({{0}} * ({constant(1, out)} if {{1}} > {constant(0, out)} else {constant(p['negative_slope'], out)}))"


EXPRESSIONS["logical_not"] = lambda params, out, ins: "(not {0})" if out == "?" else "(~{0})"
EXPRESSIONS["ones_like"] = lambda params, out, ins: constant(1, out)
EXPRESSIONS["zeros_like"] = lambda params, out, ins: constant(0, out)


def expression(prim: Any, params: dict, out: np.dtype, ins: list[np.dtype]) -> str | None:
    """The expression of a call, or None if the primitive is not elementwise or not covered for these dtypes."""
    make = EXPRESSIONS.get(prim.name)
    if make is None or out.char not in NUMBA_TYPES or any(d is not None and d.char not in NUMBA_TYPES for d in ins):
        return None
    return make({**prim.defaults, **params}, out.char, [d.char if d is not None else "" for d in ins])
