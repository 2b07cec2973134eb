"""Elementwise operations as scalar code: what one element of the output is.

The vocabulary is NumPy's (and SciPy's) ufuncs, in which formulas are written: :data:`UFUNCS` has a text for each. See
:mod:`.symbolic` for how a formula becomes an :class:`Expression`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

NUMBA_TYPES = {
    "f": "np.float32", "d": "np.float64", "?": "np.bool_", "b": "np.int8", "h": "np.int16", "i": "np.int32",
    "l": "np.int64", "q": "np.int64", "B": "np.uint8", "H": "np.uint16", "I": "np.uint32", "L": "np.uint64",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Expression:
    """Scalar code with the inputs of a step as operands.

    ``lines`` are (dtype character, text); each text is a format string over the operands ``{0}``, ``{1}`` …: the
    inputs, in order, then the results of the lines before it. The last line is the output.
    """

    lines: tuple[tuple[str, str], ...]


def constant(value: Any, char: str) -> str:
    """A number as a literal of the dtype. Raises OverflowError if an integer does not fit."""
    if char in "fd":
        value = float(value)
        text = (
            "np.nan" if math.isnan(value) else f"{'-' if value < 0 else ''}np.inf" if math.isinf(value) else repr(value)
        )
        return f"{NUMBA_TYPES[char]}({text})"
    return f"{NUMBA_TYPES[char]}({int(np.dtype(char).type(value))})"


def numbers(char: str) -> dict[str, Any]:
    """The placeholders in texts that depend on the dtype alone."""
    return {"zero": constant(0, char), "one": constant(1, char), "bits": 32 if char == "f" else 64}


_ANY, _FLOAT, _INTEGER = "?iuf", "f", "?iu"

#: name of a ufunc -> (kinds of the dtypes that it computes in, text); in the texts, ``{zero}``, ``{one}`` and
#: ``{bits}`` are of the dtype of the first operand
UFUNCS: dict[str, tuple[str, str]] = {
    "positive": (_ANY, "{0}"),
    "negative": (_ANY, "(-{0})"),
    "absolute": (_ANY, "abs({0})"),
    "add": (_ANY, "({0} + {1})"),
    "subtract": (_ANY, "({0} - {1})"),
    "multiply": (_ANY, "({0} * {1})"),
    "square": (_ANY, "({0} * {0})"),
    "divide": (_FLOAT, "({0} / {1})"),
    "reciprocal": (_FLOAT, "({one} / {0})"),
    "power": (_FLOAT, "({0} ** {1})"),
    "sqrt": (_FLOAT, "np.sqrt({0})"),
    "floor": (_FLOAT, "np.floor({0})"),
    "ceil": (_FLOAT, "np.ceil({0})"),
    "trunc": (_FLOAT, "np.trunc({0})"),
    "rint": (_FLOAT, "np.rint({0})"),
    "sign": (_FLOAT, "({one} if {0} > {zero} else (-{one} if {0} < {zero} else {0} * {zero}))"),
    "equal": (_ANY, "({0} == {1})"),
    "not_equal": (_ANY, "({0} != {1})"),
    "less": (_ANY, "({0} < {1})"),
    "less_equal": (_ANY, "({0} <= {1})"),
    "greater": (_ANY, "({0} > {1})"),
    "greater_equal": (_ANY, "({0} >= {1})"),
    # NaN wins
    "maximum": (_ANY, "({0} if ({0} > {1}) | ({0} != {0}) else {1})"),
    "minimum": (_ANY, "({0} if ({0} < {1}) | ({0} != {0}) else {1})"),
    # NaN loses
    "fmax": (_FLOAT, "({0} if ({0} >= {1}) | ({1} != {1}) else {1})"),
    "fmin": (_FLOAT, "({0} if ({0} <= {1}) | ({1} != {1}) else {1})"),
    "isnan": (_FLOAT, "({0} != {0})"),
    "isfinite": (_FLOAT, "({0} - {0} == {zero})"),
    "isinf": (_FLOAT, "(({0} == {0}) & ({0} - {0} != {zero}))"),
    "logical_and": (_ANY, "(({0} != {zero}) & ({1} != {zero}))"),
    "logical_or": (_ANY, "(({0} != {zero}) | ({1} != {zero}))"),
    "logical_xor": (_ANY, "(({0} != {zero}) ^ ({1} != {zero}))"),
    "logical_not": (_ANY, "({0} == {zero})"),
    "bitwise_and": (_INTEGER, "({0} & {1})"),
    "bitwise_or": (_INTEGER, "({0} | {1})"),
    "bitwise_xor": (_INTEGER, "({0} ^ {1})"),
    "invert": (_INTEGER, "(~{0})"),
    "exp": (_FLOAT, "vecmath.exp{bits}({0})"),
    "log": (_FLOAT, "vecmath.log{bits}({0})"),
    "tanh": (_FLOAT, "vecmath.tanh{bits}({0})"),
    "erf": (_FLOAT, "vecmath.erf{bits}({0})"),
    "expit": (_FLOAT, "vecmath.sigmoid{bits}({0})"),
    "ndtr": (_FLOAT, "vecmath.normal_cdf{bits}({0})"),
    "expm1": (_FLOAT, "math.expm1({0})"),
    "log1p": (_FLOAT, "math.log1p({0})"),
    "log2": (_FLOAT, "np.log2({0})"),
    "log10": (_FLOAT, "np.log10({0})"),
    "sin": (_FLOAT, "math.sin({0})"),
    "cos": (_FLOAT, "math.cos({0})"),
    "tan": (_FLOAT, "math.tan({0})"),
    "arcsin": (_FLOAT, "np.arcsin({0})"),
    "arccos": (_FLOAT, "np.arccos({0})"),
    "arctan": (_FLOAT, "np.arctan({0})"),
    "sinh": (_FLOAT, "np.sinh({0})"),
    "cosh": (_FLOAT, "np.cosh({0})"),
    "arcsinh": (_FLOAT, "np.arcsinh({0})"),
    "arccosh": (_FLOAT, "np.arccosh({0})"),
    "arctanh": (_FLOAT, "np.arctanh({0})"),
    "arctan2": (_FLOAT, "np.arctan2({0}, {1})"),
    "logaddexp": (_FLOAT, "np.logaddexp({0}, {1})"),
    "hypot": (_FLOAT, "np.hypot({0}, {1})"),
    "copysign": (_FLOAT, "np.copysign({0}, {1})"),
}

#: on booleans, where Python's operators do something else than NumPy's
BOOLEANS = {"negative": None, "subtract": None, "invert": "(not {0})", "isnan": None}
