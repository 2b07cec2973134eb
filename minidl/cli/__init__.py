"""The ``minidl`` command. Each sub-command is a module here with a ``register(subparsers)``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = ("train", "resume", "evaluate", "predict", "generate", "info", "recipes", "backends", "kernels")


class UserError(Exception):
    """A mistake of the user's: shown as one line, without a traceback."""


def parser() -> argparse.ArgumentParser:
    """The parser with every sub-command that is there."""
    import minidl

    top = argparse.ArgumentParser(prog="minidl", description="Train, use and inspect models; see COMMAND --help.")
    top.add_argument("--version", action="version", version=f"minidl {minidl.__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        try:
            module = importlib.import_module(f"minidl.cli.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"minidl.cli.{name}":
                raise
            continue
        module.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt as interrupt:
        from minidl.train import Interrupted

        if not isinstance(interrupt, Interrupted):  # that one has said what is to be said
            print("minidl: aborted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, as head does, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug or not isinstance(error, _user_errors()):
            raise
        print(f"minidl: error: {error}", file=sys.stderr)
        return 2


def _user_errors() -> tuple[type[Exception], ...]:
    """What is reported in a line: mistakes in the command, missing and damaged files, absent libraries, NaN losses."""
    from minidl.backend import BackendError
    from minidl.data import CorruptFileError
    from minidl.recipes import ConfigError
    from minidl.train import CheckpointError, NonFiniteLossError

    return (
        UserError, ConfigError, BackendError, CorruptFileError, CheckpointError, NonFiniteLossError,
        ImportError, OSError,
    )  # fmt: skip
