"""``minidl generate [RUN]``."""

from __future__ import annotations

import argparse

from minidl.cli.options import add_backend, add_run, choose_backend, open_run, say
from minidl.errors import UserError
from minidl.ranges import Range, between, optional, whole


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


OPTIONS = {
    "prompt": Range(lambda text: text != "", "not empty"),
    "length": whole(1, 10**6),
    "temperature": between(0, 1000),
    "top_k": optional(whole(1)),
}


def run(arguments: argparse.Namespace) -> int:
    from minidl.data import CharTokenizer
    from minidl.random import Generator
    from minidl.recipes import TextRecipe

    made = open_run(arguments.run_folder, TextRecipe)
    if not isinstance(made.recipe, TextRecipe):
        raise UserError(f"{made.recipe.name} is not a language model; try: minidl predict {made.folder} IMAGE")
    for option, allowed in OPTIONS.items():
        value = getattr(arguments, option)
        if not allowed.holds(value):
            raise UserError(f"--{option.replace('_', '-')} must be {allowed.expected}, got {value!r}")
    choose_backend(arguments.backend or made.content["backend"])
    path = made.folder / "tokenizer.json"
    tokenizer = CharTokenizer.load(path)
    if tokenizer.vocab_size != made.config["vocab_size"]:
        raise UserError(f"{path} has {tokenizer.vocab_size} characters, the run's model {made.config['vocab_size']}")
    try:
        prompt = tokenizer.encode(arguments.prompt)
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from error
    model = made.trained_model()
    try:
        tokens = model.generate(
            prompt[None], arguments.length, arguments.temperature, arguments.top_k, Generator(arguments.seed)
        )
    except ValueError as error:  # weights that are sound files, but no sound numbers
        raise UserError(f"{made.folder}: {error}") from error
    say(tokenizer.decode(tokens.numpy()[0]))
    return 0
