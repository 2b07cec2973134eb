"""Every kernel of the jax backend does what the formula does, NaN and infinity included."""

import pytest

pytest.importorskip("jax", reason="the jax backend's kernels")

from minidl.core.registry import load, serving
from minidl.ops import primitives
from minidl.testing.conformance import check

NAMES = [name for name in sorted(primitives) if serving(load("jax"), name)]
#: checked in more detail by files of their own
ELSEWHERE = {f"conv{n}d{part}" for n in (1, 2, 3) for part in ("", "_input_grad", "_weight_grad")} | {
    f"{name}{part}" for name in ("rnn", "gru", "lstm") for part in ("", "_backward")
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_conforms(name):
    heavy = "attention" in name or "pool" in name  # XLA compiles each case
    reports = check(name, "jax", max_examples=1, dtypes=["float32"] if heavy else None)
    assert reports and all(report.ok for report in reports), "\n".join(map(str, reports))
