"""The conformance suite as pytest tests, for the test folder of a kernel package. One line does it::

from minidl.testing.pytest_plugin import conformance_tests

test_kernels = conformance_tests("mybackend")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidl.core.errors import BackendError
from minidl.core.registry import load
from minidl.testing.conformance import check, is_defined_in


def conformance_tests(
    backend: str,
    primitives: Sequence[str] | None = None,
    *,
    module: str = "",
    save_to: str | Path = "kernel-failures",
    **options: Any,
) -> Callable[..., None]:
    """A test function with one case for every kernel of ``backend``, or of its kernels for ``primitives``.

    ``module`` selects kernels whose functions are defined in that module or package: a package that adds kernels to
    somebody else's backend checks its own. Import what registers the kernels first, unless the backend does.
    ``options`` go to :func:`minidl.testing.conformance.check`. Where the backend cannot be used, the test is skipped
    with the reason; a selection without any kernel fails.
    """
    import pytest

    def skipped(reason: str) -> Callable[..., None]:
        @pytest.mark.skip(reason=reason)
        def test() -> None:
            """Conformance of the kernels of a backend that is not there."""

        return test

    try:
        loaded = load(backend)
    except BackendError as error:
        return skipped(str(error))
    kernels = [
        k
        for name in sorted(loaded.kernels)
        for k in loaded.kernels[name]
        if (primitives is None or name in primitives) and is_defined_in(k, module)
    ]
    chosen = [pytest.param(k, id=f"{k.primitive}:{k.label}") for k in kernels]
    absent = sorted(set(primitives or ()) - {k.primitive for k in kernels})

    @pytest.mark.parametrize("kernel", chosen or [pytest.param(None, id="none")])
    def test(kernel: Any) -> None:
        if kernel is None or absent:
            where = f" in {module}" if module else ""
            what = ", ".join(absent) or "any primitive"
            pytest.fail(f"backend {backend!r} has no kernel for {what}{where}", pytrace=False)
        (report,) = check(kernel.primitive, loaded, kernels=[kernel], save_to=save_to, **options)
        print(report)  # pytest shows it for failures, and with -rP
        if not report.ok:
            pytest.fail(str(report), pytrace=False)

    return test
