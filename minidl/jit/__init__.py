"""``minidl.jit(step)``: capture a whole training step once, then replay it as a program.

The first call with arguments of given shapes and dtypes runs the step eagerly and notes every primitive that runs,
forward, backward and update alike (:mod:`~minidl.jit.capture`). The program is simplified (:mod:`~minidl.jit.passes`)
and handed to the backend, which may fuse, plan buffers and compile (``Backend.compile``), or leave it to be interpreted
(:mod:`~minidl.jit.interpreter`). Further calls replay it without running the Python of the step.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

from minidl.core.errors import CaptureError, MismatchError
from minidl.core.trace import Live
from minidl.core.tree import register_pytree
from minidl.jit.api import JitFunction, jit
from minidl.jit.program import Program

__all__ = ["CaptureError", "JitFunction", "Live", "MismatchError", "Program", "jit", "register_pytree"]


class _JitModule(types.ModuleType):
    """This package is what ``minidl.jit`` names, so it can be called like the decorator that it holds."""

    def __call__(self, function: Callable[..., Any], **options: Any) -> JitFunction:
        return jit(function, **options)


_JitModule.__call__.__doc__ = jit.__doc__
sys.modules[__name__].__class__ = _JitModule
