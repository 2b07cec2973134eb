"""Ctrl-C during training: the step under way is finished first, so that a consistent state is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the state is saved at ``checkpoint`` (None: there is no run folder to save it in)."""

    def __init__(self, message: str, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class Interrupts:
    """Counts presses of Ctrl-C; true once there was one."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, the first Ctrl-C is only counted; a second one raises KeyboardInterrupt at once."""
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a background job's
        if ignored or threading.current_thread() is not threading.main_thread():  # others get no signals
            yield
            return

        def note(signum: int, frame: Any) -> None:
            self.count += 1
            if self.count > 1:
                raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self.count = 0
