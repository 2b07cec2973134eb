"""``minidl recipes``."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "recipes", help="list the recipes", description="List the recipes, or show one: its settings and source file."
    )
    p.add_argument("recipe", nargs="?", metavar="RECIPE")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import sys

    from minidl import recipes

    if arguments.recipe is None:
        for name in recipes.NAMES:
            recipe = recipes.get(name)
            print(f"{name:22} {recipe.summary}\n{'':22} target: {recipe.target}{_unmeasured(recipe)}")
        return 0
    recipe = recipes.get(arguments.recipe)
    module = sys.modules[type(recipe).__module__]
    print((module.__doc__ or recipe.summary).strip())
    print(f"\nTarget: {recipe.target} ({recipe.target.source}{_unmeasured(recipe)})")
    print(f"Source: {module.__file__}\nSettings:")
    for key, value in recipe.defaults.items():
        print(f"  {key}={value}")
    return 0


def _unmeasured(recipe: Any) -> str:
    return "" if recipe.target.measured else "; unmeasured"
