"""``minidl resume RUN``."""

from __future__ import annotations

import argparse

from minidl.cli.options import add_display, choose_backend
from minidl.cli.train import finish
from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "resume",
        help="resume an interrupted run",
        description="Resume an interrupted run. It ends with the same result as if it had not been interrupted.",
    )
    p.add_argument("run_folder", metavar="RUN")
    p.add_argument("--checkpoint", metavar="FOLDER", help="resume from this one instead of the latest")
    add_display(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl.recipes.run import Run

    made = Run.open(arguments.run_folder)
    if (made.folder / "result.json").exists() and arguments.checkpoint is None:
        raise UserError(f"{made.folder} is finished; see: minidl info {made.folder}")
    choose_backend(made.content["backend"])
    return finish(made, arguments, resume=arguments.checkpoint or True)
