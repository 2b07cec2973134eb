"""Who imports whom: layers import downwards only, and there are no circles.

The imports are read from the source with :mod:`ast`, those inside functions included, those under ``if TYPE_CHECKING:``
excepted. ``from minidl import ops`` is an import of ``minidl.ops``; ``import minidl`` and ``from minidl import
as_tensor`` are imports of ``minidl/__init__.py``, which is at the very top: no module below it may use them.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]

#: From the bottom up. Members of one layer do not import each other, and none imports from a layer above its own.
LAYERS = (
    ("minidl.errors", "minidl.ranges", "minidl.version"),
    ("minidl.blas", "minidl.files", "minidl.machine"),
    ("minidl.core",),
    ("minidl.backend",),
    ("minidl.random",),
    ("minidl.ops",),
    ("minidl.autograd", "minidl.creation", "minidl.special"),
    ("minidl.jit",),
    ("minidl.nn",),
    ("minidl.torch_file",),
    (
        "minidl.data",
        "minidl.interop",
        "minidl.keras",
        "minidl.models",
        "minidl.optim",
        "minidl.serialization",
        "minidl.viz",
    ),
    ("minidl.onnx",),
    ("minidl.train",),
    ("minidl.recipes", "minidl.testing"),
    ("minidl.cli",),
    ("minidl", "minidl.__main__"),
)

#: What a kernel package may use of minidl.
OPEN_TO_KERNELS = {f"minidl.{name}" for name in ["blas", "files", "core", "backend", "ops", "random", "jit"]}

#: The same for the parts of the numba package, which as a whole (its ``__init__`` and ``backend``) is on top of them.
NUMBA_LAYERS = (
    ("minidl_kernels.numba.simd",),
    ("minidl_kernels.numba.compiler",),
    ("minidl_kernels.numba.kernels",),
    ("minidl_kernels.numba",),
)

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the two packages, and its file."""
    found = {}
    for top in ("minidl", "minidl_kernels"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def names_imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports, each as a dotted name, whose end may be something that is defined in a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from names_imported(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports in this project are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
            yield from names_imported(node)


def resolve(name: str, known: Collection[str]) -> str:
    """The module of ours that ``name`` is, or is defined in; "" if there is none."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


@cache
def file_graph() -> Graph:
    """Module -> the modules of ours that it imports."""
    files = modules()
    graph: Graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {resolve(name, files) for name in names_imported(tree)} - {module, ""}
    return graph


def package(module: str) -> str:
    """The package, or the single module at the top, that a module belongs to."""
    parts = module.split(".")
    if parts[:2] == ["minidl_kernels", "numba"] and ".".join(parts[:3]) in (name for (name,) in NUMBA_LAYERS):
        return ".".join(parts[:3])
    return ".".join(parts[:2])


def between_packages() -> dict[tuple[str, str], list[str]]:
    """(a package, another) -> the imports by which the first depends on the second."""
    found: dict[tuple[str, str], list[str]] = {}
    for module, imported in file_graph().items():
        for other in imported:
            if package(module) != package(other):
                found.setdefault((package(module), package(other)), []).append(f"{module} imports {other}")
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes in which every one reaches every other."""
    nodes = sorted({*graph, *(to for targets in graph.values() for to in targets)})
    number = {node: i for i, node in enumerate(nodes)}
    edges = [(number[node], number[to]) for node, targets in graph.items() for to in targets]
    rows, columns = zip(*edges)
    matrix = csr_array(([1] * len(edges), (rows, columns)), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(matrix, connection="strong")
    groups: dict[int, list[str]] = {}
    for node, label in zip(nodes, labels):
        groups.setdefault(label, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def test_no_circle_of_files_is_longer_than_two():
    long = [", ".join(group) for group in circles(file_graph()) if len(group) > 2]
    assert not long, "\n".join(long)


def test_no_circle_between_packages():
    graph: Graph = {}
    for one, other in between_packages():
        graph.setdefault(one, set()).add(other)
    found = [", ".join(group) for group in circles(graph)]
    assert not found, "\n".join(found)


def test_every_package_has_a_layer():
    placed = {name for layer in LAYERS for name in layer}
    assert placed == {package(m) for m in modules() if m.split(".")[0] == "minidl"}


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(LAYERS, id="minidl"),
        pytest.param(NUMBA_LAYERS, id="numba"),
    ],
)
def test_imports_go_downwards(layers):
    level = {name: i for i, layer in enumerate(layers) for name in layer}
    upwards = [
        line
        for (one, other), lines in between_packages().items()
        if one in level and other in level and level[other] >= level[one]
        for line in lines
    ]
    assert not upwards, "\n".join(upwards)


def test_minidl_imports_no_kernel_package():
    wrong = [
        line
        for (one, other), lines in between_packages().items()
        if one.split(".")[0] == "minidl" and other.split(".")[0] == "minidl_kernels"
        for line in lines
    ]
    assert not wrong, "\n".join(wrong)


def test_kernel_packages_use_what_is_open_to_them_and_not_each_other():
    wrong = [
        line
        for (one, other), lines in between_packages().items()
        if one.startswith("minidl_kernels.")
        and other not in OPEN_TO_KERNELS
        and one.split(".")[:2] != other.split(".")[:2]
        for line in lines
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reader_sees_every_kind_of_import():
    source = """
import a.b
from c import d, e as other
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import hidden
else:
    import shown
def f():
    if f:
        from g import h
    importlib.import_module("i.j")
"""
    found = sorted(names_imported(ast.parse(source)))
    assert found == ["a.b", "c.d", "c.e", "g.h", "i.j", "shown", "typing.TYPE_CHECKING"]
