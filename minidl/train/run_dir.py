"""The Trainer's run folder: one process's alone while it trains, and nothing half written in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from minidl import files
from minidl.errors import UserError
from minidl.train import checkpoint


class RunFolderError(UserError, RuntimeError):
    """The run folder cannot be used."""


@contextlib.contextmanager
def owned(folder: Path | None) -> Iterator[None]:
    """Inside, the folder exists, no one else trains in it, and what a killed process left half written is cleared.

    Raises InUseError if another process, or another thread, is training there.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with files.exclusive(folder):
        files.clear_leftovers(folder)
        checkpoint.tidy(checkpoints(folder))
        yield


def checkpoints(folder: Path) -> Path:
    """Where the checkpoints of the run in ``folder`` are."""
    return folder / "checkpoints"


def check_there(folder: Path | None) -> None:
    """Raise RunFolderError if the folder has vanished: written anew, it would lack what only the start writes."""
    if folder is not None and not folder.is_dir():
        raise RunFolderError(f"{folder} is gone: the run folder was moved or deleted while training")
