"""``minidl eval [RUN]``."""

from __future__ import annotations

import argparse

from minidl.cli.options import add_backend, add_run, choose_backend, open_run


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "eval",
        help="evaluate a run's weights",
        description="Evaluate a run's weights over the recipe's whole test split.",
    )
    add_run(p)
    add_backend(p)
    p.add_argument("--data", metavar="PATH", help="the data set (default: the one the run was trained on)")
    p.add_argument("--quiet", action="store_true", help="show nothing but the result")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl.train.progress import figures

    made = open_run(arguments.run_folder)
    choose_backend(arguments.backend or made.content["backend"])
    weights = made.trained_model().state_dict()
    trainer, loaders = made.build(data=arguments.data, progress=not arguments.quiet)
    loader = loaders.test
    trainer.model.load_state_dict(weights)
    trainer.ema = None  # the saved weights are the averaged ones already
    found = trainer.evaluate(loader)
    result = made.recipe.result(found)
    print(f"{figures(found)}  ({len(loader.dataset):,} samples)")
    print(
        f"target {made.recipe.target} {'reached' if result['reached'] else 'not reached'} ({made.recipe.target.source})"
    )
    return 0
