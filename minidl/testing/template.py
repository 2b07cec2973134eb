"""A kernel to start from: a file that passes the conformance suite because it calls the formula, and its test."""

from __future__ import annotations

import inspect
from pathlib import Path

from minidl.core.primitive import Primitive
from minidl.errors import UserError
from minidl.files import atomic_write

_KERNEL = '''"""A kernel for the primitive ``{name}`` on the backend ``{backend}``."""

from minidl.backend import kernel
from minidl.ops import primitives

_reference = primitives["{name}"].reference


def _accepts{signature}:
    """always"""
    return True


@kernel("{name}", backend="{backend}", when=_accepts, dtypes=("float32", "float64"))
def {name}{signature}:
    """What is special about this kernel, in one line."""
    # Start from the reference, then make it faster: minidl kernels check {name} --import {module}
    return _reference({call})
'''

_TEST = '''"""The conformance suite on the kernels of {module}."""

import {module}  # noqa: F401  (registers the kernel)
from minidl.testing.pytest_plugin import conformance_tests

test_kernels = conformance_tests("{backend}", ["{name}"], module="{module}")
'''


def write(prim: Primitive, backend: str, folder: str | Path) -> list[Path]:
    """Write ``NAME_kernel.py`` and its test into ``folder``. Raises UserError if one of them already exists."""
    module = f"{prim.name}_kernel"
    call = [*prim.inputs, *([f"*{prim.variadic}"] if prim.variadic else []), *(f"{p}={p}" for p in prim.params)]
    facts = {"name": prim.name, "backend": backend, "module": module, "call": ", ".join(call)}
    facts["signature"] = _signature(prim)
    files = {Path(folder) / f"{module}.py": _KERNEL, Path(folder) / f"test_{module}.py": _TEST}
    for path in files:
        if path.exists():
            raise UserError(f"{path} already exists")
    for path, template in files.items():
        with atomic_write(path) as file:
            file.write(template.format(**facts).encode())
    return list(files)


def _signature(prim: Primitive) -> str:
    """The reference's, with defaults that can be written down."""
    parameters = []
    for p in prim.__signature__.parameters.values():
        if p.default is not p.empty and type(p.default) not in (bool, int, float, str, tuple, type(None)):
            p = p.replace(default=getattr(p.default, "__name__", str(p.default)))
        parameters.append(p.replace(annotation=p.empty))
    return str(inspect.Signature(parameters))
