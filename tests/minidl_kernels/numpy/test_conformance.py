"""Every kernel of NumPy's own does what the formula does."""

import pytest

from minidl.core.registry import load, serving
from minidl.ops import primitives
from minidl.testing.conformance import check

NAMES = [name for name in sorted(primitives) if serving(load("numpy"), name)]


@pytest.mark.parametrize("name", NAMES)
def test_conforms(name):
    reports = check(name, "numpy", max_examples=15)
    assert reports and all(r.ok for r in reports), "\n".join(map(str, reports))
