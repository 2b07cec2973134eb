"""Ctrl-C and SIGTERM during training: the step under way is finished first, so that a consistent state is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, or SIGTERM came (``signum`` says which); the state is saved at ``checkpoint`` (None: there is
    no run folder to save it in)."""

    def __init__(self, message: str, checkpoint: Path | None, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.checkpoint, self.signum = checkpoint, signum


class Interrupts:
    """Counts interrupts; true once there was one. ``signum`` is the first one's signal."""

    def __init__(self) -> None:
        self.count, self.signum = 0, int(signal.SIGINT)

    def __bool__(self) -> bool:
        return self.count > 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, the first interrupt is only counted; a second one raises KeyboardInterrupt at once. A signal that is
        ignored, or that the program handles in a way of its own, is left to it."""
        if threading.current_thread() is not threading.main_thread():  # others get no signals
            yield
            return

        def note(signum: int, frame: Any) -> None:
            self.count += 1
            if self.count > 1:
                raise KeyboardInterrupt
            self.signum = signum

        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        before = {s: signal.signal(s, note) for s, handler in usual.items() if signal.getsignal(s) == handler}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
            self.count = 0
