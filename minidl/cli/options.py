"""Options that several sub-commands share."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.recipes import Recipe
    from minidl.recipes.run import Run


def add_run(p: argparse.ArgumentParser, which: str = "the latest in runs/") -> None:
    p.add_argument("run_folder", nargs="?", metavar="RUN", help=f"default: {which}")


def open_run(folder: str | None, kind: type[Recipe] | None = None) -> Run:
    """The run in ``folder``; without one the latest of a recipe of this kind, which is then named to the user."""
    from minidl.recipes import Recipe
    from minidl.recipes.run import Run

    if folder:
        return Run.open(folder)
    made = Run.latest(kind or Recipe)
    say(f"the latest run: {made.folder}", file=sys.stderr)
    return made


def add_backend(p: argparse.ArgumentParser) -> None:
    p.add_argument("--backend", metavar="NAME", help="numpy, numba … or auto; see: minidl backends")


def choose_backend(name: str | None) -> str:
    """Make ``name`` the active backend; the one that is active already if None. Returns its name."""
    from minidl.backend import get_backend, set_backend

    return (get_backend() if name is None else set_backend(name)).name


def printable(text: str) -> str:
    """``text`` with what moves a terminal's cursor, colours it, or cannot be seen, written as an escape; line breaks
    and tabs stay. Names that a file brings along may be of any kind."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(text: str, **options: Any) -> None:
    """Print ``text``, made :func:`printable`."""
    print(printable(text), **options)


def add_display(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tensorboard", action="store_true", help="also write event files for TensorBoard")
    p.add_argument("--quiet", action="store_true", help="show nothing but the result")
