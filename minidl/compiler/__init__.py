"""``minidl.jit(step)``: capture a whole training step once, then replay it as a program.

The first call with arguments of given shapes and dtypes runs the step eagerly and notes every primitive that runs,
forward, backward and update alike (:mod:`~minidl.compiler.capture`). The program is simplified
(:mod:`~minidl.compiler.program`) and handed to the backend, which may fuse, plan buffers and compile
(``Backend.compile``); further calls replay it without running the Python of the step.
"""

from minidl.backend.live import Live
from minidl.compiler.api import JitFunction, jit
from minidl.compiler.capture import CaptureError
from minidl.compiler.program import Program

__all__ = ["CaptureError", "JitFunction", "Live", "Program", "jit"]
