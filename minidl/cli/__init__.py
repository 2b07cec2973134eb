"""The ``minidl`` command. Each sub-command is a module here with a ``register(subparsers)``."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from minidl.cli.options import say
from minidl.errors import UserError
from minidl.version import __version__

COMMANDS = ("train", "resume", "evaluate", "predict", "generate", "info", "recipes", "backends", "kernels")


def parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    top = argparse.ArgumentParser(prog="minidl", description="Train, use and inspect models; see COMMAND --help.")
    top.add_argument("--version", action="version", version=f"minidl {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"minidl.cli.{name}").register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for a mistake of the user's, 130 after Ctrl-C, 143 after
    SIGTERM."""
    arguments = parser().parse_args(argv)
    arguments.line = shlex.join(["minidl", *(sys.argv[1:] if argv is None else argv)])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged images: what matters is raised
            return arguments.run(arguments) or 0
    except KeyboardInterrupt as interrupt:
        from minidl.train import Interrupted

        if not isinstance(interrupt, Interrupted):  # that one has printed its message already
            print("minidl: aborted", file=sys.stderr)
            return 130
        return 128 + interrupt.signum
    except BrokenPipeError:  # the reader of our output, as head does, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug or not isinstance(error, _user_errors()):
            raise
        say(f"minidl: error: {error}", file=sys.stderr)
        return 2


def _user_errors() -> tuple[type[Exception], ...]:
    """What is reported in a line: mistakes in the command, missing and damaged files, absent libraries, NaN losses,
    more than the memory holds."""
    from minidl.backend import BackendError

    return UserError, BackendError, ImportError, OSError, MemoryError
