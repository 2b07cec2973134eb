"""``minidl backends``."""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "backends",
        help="list the backends, and what serves each primitive",
        description="List the backends and whether they can be used here; with NAME, what serves each primitive on it.",
    )
    p.add_argument("name", nargs="?", metavar="NAME")
    p.add_argument("--primitive", metavar="P", help="only this primitive")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl import backend

    if arguments.name is None and arguments.primitive is None:
        for name, status in backend.available().items():
            active = "*" if name == backend.get_backend().name else " "
            facts = status
            if status == "ok":
                facts = "  ".join(f"{k} {v}" for k, v in backend.load(name).info().items())
            print(f"{active} {name:10} {facts}")
        print("* is the active one. Choose another by --backend NAME or the variable MINIDL_BACKEND.")
        return 0
    rows = backend.explain(arguments.primitive, arguments.name)
    for row in rows:
        print(f"{row['primitive']:28} {row['served_by']:44} {row['when']:12} {row['note']}")
    return 0
