"""JAX's convolutions do what the formulas do."""

import pytest

from minidl.testing.conformance import check

pytest.importorskip("jax", reason="the jax backend needs jax (pip install 'minidl[jax]')")


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", ["conv{}d", "conv{}d_input_grad", "conv{}d_weight_grad"])
def test_conforms(name, n):
    reports = check(name.format(n), "jax", max_examples=8)
    assert reports and all(r.ok for r in reports), "\n".join(map(str, reports))
