"""JAX's recurrent layers, as one loop, do what the formulas do."""

import pytest

from minidl.testing.conformance import check

pytest.importorskip("jax", reason="the jax backend needs jax (pip install 'minidl[jax]')")


@pytest.mark.parametrize("name", ["rnn", "rnn_backward", "gru", "gru_backward", "lstm", "lstm_backward"])
def test_conforms(name):
    reports = check(name, "jax", max_examples=1, dtypes=["float64"])
    assert reports and all(r.ok for r in reports), "\n".join(map(str, reports))
