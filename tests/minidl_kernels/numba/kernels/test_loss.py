"""Cross-entropy on numba."""

import numpy as np
import pytest

from minidl.backend import load
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.loss", max_examples=20)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [700, 9])  # with threads and without
def test_loss_and_gradient(agree, rng, n, weighted, smoothing, reduction, dtype):
    logits = rng.normal(size=(n, 65)).astype(dtype) * 3
    target = rng.integers(0, 65, n).astype(np.int32 if weighted else np.int64)
    target[::5] = -100
    weight = rng.uniform(0.5, 2, 65).astype(dtype) if weighted else None
    params = {"label_smoothing": smoothing, "ignore_index": -100, "reduction": reduction}
    loss, top, logsum, total = agree("cross_entropy", logits, target, weight, **params)
    g = rng.normal(size=loss.shape).astype(dtype)
    (grad,) = agree("cross_entropy_grad", np.asarray(g), logits, target, top, logsum, total, weight, **params)
    assert not grad[::5].any()


def test_all_targets_ignored(agree, rng):
    logits = rng.normal(size=(3, 4)).astype(np.float32)
    loss, *_ = agree("cross_entropy", logits, np.full(3, -100), None, reduction="mean")
    assert np.isnan(loss)


def test_one_example(agree, rng):
    logits = rng.normal(size=7)
    _, *kept = agree("cross_entropy", logits, np.array(3), None)
    agree("cross_entropy_grad", np.array(1.0), logits, np.array(3), *kept, None)


@pytest.mark.parametrize("bad", [-1, 4, 10**12])
@pytest.mark.parametrize("n", [3, 20_000])
def test_a_class_that_does_not_exist_is_refused(rng, bad, n):
    (kernel,) = load("numba").kernels["cross_entropy"]
    target = np.zeros(n, np.int64)
    target[-1] = bad
    with pytest.raises(IndexError, match=r"outside 0\.\.3"):
        kernel.function(rng.normal(size=(n, 4)), target)


def test_planes_are_left_to_the_reference(rng):
    (kernel,) = load("numba").kernels["cross_entropy"]
    assert not kernel.when(rng.normal(size=(2, 3, 4)), np.zeros((2, 4), np.int64))
