"""``minidl kernels``: list, check, bench, new."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys

from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "kernels",
        help="list, check and time kernels; start a new one",
        description="The kernel developer's tools; see minidl kernels COMMAND --help.",
    )
    commands = p.add_subparsers(dest="kernels_command", metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="what serves each primitive on each backend")
    _name(listing)
    listing.add_argument("--backend", action="append", metavar="B", help="only this backend (may be repeated)")
    listing.add_argument("--all", action="store_true", help="also primitives that only the reference serves")
    _import(listing)
    listing.set_defaults(run=run_list)

    check = commands.add_parser(
        "check",
        help="run the conformance suite",
        description="Run the conformance suite on the kernels of all backends. Exit status 1 if one fails.",
    )
    _name(check)
    check.add_argument("--backend", action="append", metavar="B", help="only this backend (may be repeated)")
    check.add_argument(
        "--reference", action="store_true", help="with NAME: also the reference, on the backend's arrays"
    )
    check.add_argument("--examples", type=int, default=60, metavar="N", help="generated cases per kernel (default 60)")
    check.add_argument("--out", default="kernel-failures", metavar="DIR", help="where failing cases are saved")
    check.add_argument("--replay", metavar="FILE", help="run the failing case in FILE again")
    _import(check)
    check.set_defaults(run=run_check)

    bench = commands.add_parser(
        "bench",
        help="time kernels side by side against the machine's roofline",
        description="Time what serves each primitive on every backend. Caches are emptied before each call.",
    )
    _name(bench)
    bench.add_argument(
        "--backend", action="append", metavar="B", help="default: all that can be used, numpy among them"
    )
    bench.add_argument("--warm", action="store_true", help="leave the caches as the call before left them")
    bench.add_argument("--seconds", type=float, default=1.0, help="time to spend on a case (default 1)")
    bench.add_argument("--size", type=int, action="append", metavar="I", help="only the case number I (from 0)")
    bench.add_argument("--out", metavar="DIR", help="write results.json and a plot (PNG) for every primitive")
    bench.add_argument("--measure", action="store_true", help="measure the roofline again")
    _import(bench)
    bench.set_defaults(run=run_bench)

    new = commands.add_parser("new", help="write a template kernel and its test")
    new.add_argument("name", metavar="NAME", help="the primitive to serve")
    new.add_argument("--backend", default="numba", metavar="B", help="the backend to serve it on (default numba)")
    new.add_argument("--out", default=".", metavar="DIR", help="folder for the two files")
    new.set_defaults(run=run_new)


def _name(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", nargs="?", metavar="NAME", help="only this primitive")


def _import(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="import this module first (looked for in the current folder, too); check then checks its kernels alone",
    )  # fmt: skip


def _import_modules(arguments: argparse.Namespace) -> None:
    if arguments.modules:
        sys.path.insert(0, os.getcwd())
    for module in arguments.modules:
        importlib.import_module(module)


def _known_primitive(name: str) -> str:
    from minidl.ops import primitives

    if name not in primitives:
        near = difflib.get_close_matches(name, primitives, 3)
        raise UserError(f"no primitive is called {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return name


def _backends(arguments: argparse.Namespace) -> list:
    """The backends asked for (an error if one cannot be used), else all that can be used here."""
    from minidl.backend import available, load

    if arguments.backend:
        return [load(name) for name in arguments.backend]
    usable = []
    for name, status in available().items():
        if status == "ok":
            usable.append(load(name))
        else:
            print(f"not checked: {status}" if arguments.kernels_command == "check" else status, file=sys.stderr)
    return usable


def run_list(arguments: argparse.Namespace) -> int:
    from minidl.backend import explain

    _import_modules(arguments)
    if arguments.name:
        _known_primitive(arguments.name)
    rows: list[tuple[str, ...]] = [("primitive", "backend", "dtypes", "condition", "served by", "note")]
    for backend in _backends(arguments):
        for found in explain(arguments.name, backend.name):
            if arguments.all or arguments.name or found["primitive"] in backend.kernels:
                rows.append(tuple(found[k] for k in ("primitive", "backend", "dtypes", "when", "served_by", "note")))
        for name in sorted(backend.kernels):
            if not _exists(name) and arguments.name in (None, name):
                rows += [(name, backend.name, "", "never", k.label, "no such primitive") for k in backend.kernels[name]]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, [*widths, 0])).rstrip())
    return 0


def _exists(primitive: str) -> bool:
    from minidl.ops import primitives

    return primitive in primitives


def run_check(arguments: argparse.Namespace) -> int:
    from minidl.testing import conformance

    _import_modules(arguments)
    failed = checked = 0
    if arguments.replay:
        reports = conformance.replay(arguments.replay)
        for report in reports:
            print(report)
        return int(not all(report.ok for report in reports))
    if arguments.reference and not arguments.name:
        raise UserError("--reference needs the NAME of a primitive")
    for backend in _backends(arguments):
        for name in [arguments.name] if arguments.name else sorted(backend.kernels):
            options = {"max_examples": arguments.examples, "save_to": arguments.out, "reference": arguments.reference}
            kernels = [k for k in backend.kernels.get(name, ()) if conformance.is_defined_in(k, *arguments.modules)]
            for report in conformance.check(name, backend, kernels=kernels, **options):
                print(report, flush=True)
                checked += 1
                failed += not report.ok
    if not checked:
        if arguments.name:
            _known_primitive(arguments.name)
        raise UserError(f"there is no kernel{' for ' + arguments.name if arguments.name else ''} to check")
    print(f"{checked - failed} of {checked} kernels conform")
    return int(failed > 0)


def run_bench(arguments: argparse.Namespace) -> int:
    from minidl.backend import load
    from minidl.testing import bench
    from minidl.testing.roofline import roofline

    _import_modules(arguments)
    if arguments.name:
        _known_primitive(arguments.name)
        if arguments.name not in bench.CASES:
            raise UserError(f"no benchmark cases for {arguments.name!r}; there are some for {', '.join(bench.CASES)}")
    backends = arguments.backend or bench.installed()
    names = (
        [arguments.name] if arguments.name else sorted({n for b in backends for n in load(b).kernels} & {*bench.CASES})
    )
    if not names:
        raise UserError("none of these backends has a kernel that can be timed; give the NAME of a primitive")
    roofs = {r.device: r for r in (roofline(load(b), measure_again=arguments.measure) for b in backends)}
    for r in roofs.values():
        print(f"{r.device}: {r.gflops:.0f} GFLOP/s (sgemm), {r.gbs:.0f} GB/s (copy)")
    print(f"caches {'warm' if arguments.warm else 'cold'}")
    results = []
    for name in names:
        cases = bench.CASES[name]
        if arguments.size:
            try:
                cases = [cases[i] for i in arguments.size]
            except IndexError:
                raise UserError(f"{name} has cases 0 to {len(cases) - 1}") from None
        found = bench.run(name, backends, warm=arguments.warm, cases=cases, seconds=arguments.seconds)
        print(bench.table(found), flush=True)
        results += found
    if not arguments.warm and any(r.share > 1.05 for r in results):
        print("Faster than the roofline: it was measured while the machine was busy. Measure it again with --measure.")
    if arguments.out:
        for path in bench.save(results, arguments.out, list(roofs.values()), arguments.warm):
            print(path)
    return int(any(r.status.startswith("wrong") for r in results))


def run_new(arguments: argparse.Namespace) -> int:
    from minidl.ops import primitives
    from minidl.testing import template

    name = _known_primitive(arguments.name)
    paths = template.write(primitives[name], arguments.backend, arguments.out)
    for path in paths:
        print(path)
    print(f"Next: minidl kernels check {name} --backend {arguments.backend} --import {paths[0].stem}")
    return 0
