"""``minidl train RECIPE``."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import add_backend, add_display, choose_backend
from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "train", help="train a recipe's model", description="Train a recipe's model and write a run folder."
    )
    p.add_argument("recipe", metavar="RECIPE", help="see: minidl recipes")
    add_backend(p)
    p.add_argument(
        "--data", metavar="PATH", help="the data set; default: $MINIDL_DATA, then ~/.cache/minidl, then download"
    )
    p.add_argument("--epochs", type=int, metavar="N")
    p.add_argument("--seed", type=int, metavar="S", help="equal seeds give equal weights, bit for bit")
    p.add_argument("--out", metavar="FOLDER", help="run folder (default: runs/RECIPE)")
    p.add_argument(
        "--set", action="append", default=[], type=setting, metavar="KEY=VALUE", dest="settings",
        help="change a setting; may be repeated",
    )  # fmt: skip
    p.add_argument("--jit", action="store_true", help="capture the training step once and replay it compiled")
    add_display(p)
    p.set_defaults(run=run)


def setting(text: str) -> tuple[str, str]:
    """``lr=0.1`` as ("lr", "0.1")."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key.strip(), value.strip()


def run(arguments: argparse.Namespace) -> int:
    from minidl.recipes.run import Run

    backend = choose_backend(arguments.backend)
    settings = dict(arguments.settings)
    for name in ("epochs", "seed"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    made = Run.create(arguments.recipe, settings, arguments.data, backend, arguments.out, jit=arguments.jit)
    return finish(made, arguments)


def finish(made: Any, arguments: argparse.Namespace, resume: bool | str = False) -> int:
    """Train and show the result."""
    from minidl.recipes.run import verdict

    try:
        result = made.train(
            quiet=arguments.quiet, tensorboard=arguments.tensorboard, resume=resume, command=arguments.line
        )
    except ConnectionError as error:
        raise UserError(
            f"{error}\nIf you have the data, say where: --data PATH, or the variable MINIDL_DATA"
        ) from error
    if arguments.quiet:
        print(verdict(made.recipe, result))
    return 0
