"""``minidl.jit(step)``: capture a whole training step once, then replay it as a program.

The first call with arguments of given shapes and dtypes runs the step eagerly and notes every primitive that runs,
forward, backward and update alike (:mod:`~minidl.jit.capture`). The program is simplified
(:mod:`~minidl.jit.program`) and handed to the backend, which may fuse, plan buffers and compile
(``Backend.compile``); further calls replay it without running the Python of the step.
"""

from minidl.backend.live import Live
from minidl.jit.api import JitFunction, jit
from minidl.jit.capture import CaptureError
from minidl.jit.program import Program

__all__ = ["CaptureError", "JitFunction", "Live", "Program", "jit"]
