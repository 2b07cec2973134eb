"""``minidl generate [RUN]``."""

from __future__ import annotations

import argparse

from minidl.cli.options import add_backend, add_run, choose_backend, open_run
from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "generate", help="write text with a language model", description="Write text with a run's language model."
    )
    add_run(p)
    p.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    p.add_argument("--length", type=int, default=500, metavar="N", help="characters to write (default: 500)")
    p.add_argument(
        "--temperature", type=float, default=0.8, metavar="T",
        help="0 takes the likeliest character each time, 1 draws from the model's own distribution (default: 0.8)",
    )  # fmt: skip
    p.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest characters only")
    p.add_argument("--seed", type=int, default=0, metavar="S")
    add_backend(p)
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl.data import CharTokenizer
    from minidl.random import Generator
    from minidl.recipes import TextRecipe

    made = open_run(arguments.run_folder, TextRecipe)
    if not isinstance(made.recipe, TextRecipe):
        raise UserError(f"{made.recipe.name} is not a language model; try: minidl predict {made.folder} IMAGE")
    if arguments.length < 1 or arguments.temperature < 0 or (arguments.top_k or 1) < 1 or not arguments.prompt:
        raise UserError("--length and --top-k must be at least 1, --temperature at least 0, --prompt not empty")
    choose_backend(arguments.backend or made.content["backend"])
    tokenizer = CharTokenizer.load(made.folder / "tokenizer.json")
    try:
        prompt = tokenizer.encode(arguments.prompt)
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from error
    tokens = made.trained_model().generate(
        prompt[None], arguments.length, arguments.temperature, arguments.top_k, Generator(arguments.seed)
    )
    print(tokenizer.decode(tokens.numpy()[0]))
    return 0
