"""The engine's own exceptions, and how an array library's complaint becomes one that names the operation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.core.primitive import Primitive


class BackendError(RuntimeError):
    """A backend is unknown, cannot be loaded, or (in strict mode) has no kernel for a primitive."""


class AnomalyError(RuntimeError):
    """A NaN appeared in a forward value or in a gradient while anomaly mode was on."""


class CaptureError(RuntimeError):
    """A step does something that a captured program (``minidl.jit``) could not repeat."""


class MismatchError(AssertionError):
    """A replay of a captured program gave other values than the step itself."""


_SCALARS = (int, float, bool, complex)
# what array libraries raise for arguments that do not fit
_COMPLAINTS = (ValueError, TypeError, IndexError, AttributeError, np.exceptions.AxisError)


def describe(a: Any) -> str:
    """``float32[2, 3]`` for an array; used in error messages."""
    if hasattr(a, "shape") and hasattr(a, "dtype"):
        return f"{a.dtype}[{', '.join(map(str, a.shape))}]"
    return repr(a)


def explained(prim: Primitive, error: Exception, arrays: Any, params: Mapping[str, Any]) -> Exception:
    """The array library's complaint with the operation's name and what it was given; other errors, and those that
    begin with a name already, as they are."""
    message, kind = str(error), type(error)
    if kind.__module__.startswith("numpy") and isinstance(error, TypeError):
        kind = TypeError  # NumPy's own subclass is not made from a message
    if kind not in _COMPLAINTS or re.match(r"\w+: ", message):
        return error
    seen = ", ".join([*map(describe, arrays), *(f"{k}={v!r:.60}" for k, v in params.items())])
    if not all(a is None or hasattr(a, "dtype") or isinstance(a, _SCALARS) for a in arrays):
        return TypeError(f"{prim.name}: expected arrays, Tensors or numbers, got {seen}")
    if isinstance(error, AttributeError):
        if any(a is error.obj for a in arrays if isinstance(a, _SCALARS)):
            return TypeError(f"{prim.name}: expected an array or Tensor in place of a number; got {seen}")
        return error
    if "argument" in message and message.startswith(f"{prim.reference.__name__}()"):
        return TypeError(f"{prim.name}{prim.__signature__}: {message.partition('() ')[2]}")
    if "broadcast" in message:
        return ValueError(f"{prim.name}: shapes do not broadcast together: {seen}")
    return kind(f"{prim.name}: {message}; got {seen}")
