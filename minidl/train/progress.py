"""What a run shows while it trains: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

#: figures of a row of the history that are no result
TIMES = ("seconds", "cpu_seconds")


def figures(row: dict[str, Any]) -> str:
    """``loss 0.0412  accuracy 0.9871``: the numbers of a row of the history, for people."""
    shown = []
    for name, value in row.items():
        if name in ("epoch", "step", *TIMES) or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        shown.append(f"{name} {value:.4g}" if name.startswith("lr") else f"{name} {value:.4f}")
    return "  ".join(shown)


class Silent:
    """Shows nothing."""

    def start(self) -> None:
        """Before the first epoch."""

    def stop(self) -> None:
        """After the last one, however it ended."""

    def begin(self, title: str, total: int | None, done: int = 0) -> None:
        """An epoch, or an evaluation, of ``total`` steps (None: unknown) starts, ``done`` of them behind it."""

    def advance(self, row: dict[str, Any]) -> None:
        """A step is done; ``row`` has the figures so far."""

    def end(self) -> None:
        """What :meth:`begin` began is over."""

    def message(self, text: str) -> None:
        """A line that stays."""


class Plain(Silent):
    """Lines on standard output: one for each epoch, and one every ``interval`` seconds in between."""

    def __init__(self, interval: float = 30.0) -> None:
        self.interval = interval
        self.title, self.done, self.next_at = "", 0, 0.0
        self.total: int | None = None

    def begin(self, title: str, total: int | None, done: int = 0) -> None:
        self.title, self.total, self.done, self.next_at = title, total, done, time.monotonic() + self.interval

    def advance(self, row: dict[str, Any]) -> None:
        self.done += 1
        if time.monotonic() >= self.next_at:
            self.next_at = time.monotonic() + self.interval
            self.message(f"{self.title}  {self.done}/{self.total or '?'}  {figures(row)}")

    def message(self, text: str) -> None:
        print(text, flush=True)


class Live(Silent):
    """A live progress bar, drawn by rich."""

    def __init__(self) -> None:
        from rich import progress

        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(),
            transient=True,
        )
        self.task: Any = None

    def start(self) -> None:
        self.bar.start()

    def stop(self) -> None:
        self.bar.stop()

    def begin(self, title: str, total: int | None, done: int = 0) -> None:
        self.task = self.bar.add_task(title, total=total, completed=done, figures="", speed="")

    def advance(self, row: dict[str, Any]) -> None:
        speed = self.bar.tasks[-1].speed
        self.bar.update(self.task, advance=1, figures=figures(row), speed=f"{speed:.1f}/s" if speed else "")

    def end(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def message(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def choose(progress: bool | Silent) -> Silent:
    """The display for ``Trainer(progress=…)``: live on a terminal with rich installed, plain lines otherwise."""
    if isinstance(progress, Silent):
        return progress
    if not progress:
        return Silent()
    if sys.stdout.isatty():
        try:
            return Live()
        except ImportError:
            print('For a live progress bar: pip install "minidl[train]"')
    return Plain()
