"""Gradients against central differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.autograd.functional import gradients
from minidl.core.tensor import Tensor, as_tensor


def _outputs(f: Callable[..., Any], arrays: Sequence[Any]) -> list[np.ndarray]:
    out = f(*(as_tensor(a) if isinstance(a, np.ndarray) else a for a in arrays))
    outs = out if isinstance(out, (tuple, list)) else (out,)
    return [np.asarray(o.detach()) for o in outs if o.dtype.kind == "f"]


def numerical_gradient(
    f: Callable[..., Any], arrays: Sequence[Any], which: int, weights: Sequence[np.ndarray], eps: float = 1e-6
) -> np.ndarray:
    """d sum(weights * f(arrays)) / d arrays[which] by (F(x + eps) - F(x - eps)) / (2 eps), element by element."""
    base = [np.array(a, copy=True) if isinstance(a, np.ndarray) else a for a in arrays]
    x = base[which]
    grad = np.zeros(x.shape)

    def value() -> float:
        return float(sum((w * o).sum() for w, o in zip(weights, _outputs(f, base))))

    for i in np.ndindex(x.shape):
        keep = x[i]
        x[i] = keep + eps
        plus = value()
        x[i] = keep - eps
        minus = value()
        x[i] = keep
        grad[i] = (plus - minus) / (2 * eps)
    return grad


def gradcheck(
    f: Callable[..., Any],
    *arrays: Any,
    wrt: Sequence[int] | None = None,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Compare the gradients of ``f`` with central differences; raises AssertionError that shows where they differ.

    ``arrays`` are float64 NumPy arrays (others are passed through as constants). Outputs are combined with random
    weights so that errors cannot cancel. ``wrt`` selects inputs by position (default: every float64 array).
    """
    wrt = (
        [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and a.dtype == np.float64]
        if (wrt is None)
        else wrt
    )
    if not wrt:
        raise ValueError("gradcheck: no float64 array among the inputs")
    tensors = [as_tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
    for i in wrt:
        tensors[i] = as_tensor(np.array(arrays[i]), requires_grad=True)
    out = f(*tensors)
    outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if o.dtype.kind == "f"]
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(0.5, 1.5, o.shape) * rng.choice([-1, 1], o.shape) for o in outs]
    live = [(o, as_tensor(w)) for o, w in zip(outs, weights) if o.requires_grad]
    found = gradients([o for o, _ in live], [tensors[i] for i in wrt], [w for _, w in live], allow_unused=True)
    for i, g in zip(wrt, found):
        expected = numerical_gradient(f, arrays, i, weights, eps)
        got = np.zeros_like(expected) if g is None else np.asarray(g.detach())
        assert got.shape == expected.shape, f"gradient of input {i}: shape {got.shape}, expected {expected.shape}"
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=f"gradient of input {i}")
    return True


def gradgradcheck(f: Callable[..., Any], *arrays: Any, wrt: Sequence[int] | None = None, **tolerances: Any) -> bool:
    """:func:`gradcheck` of the gradient of ``f``: are second derivatives right?"""
    wrt = (
        [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and a.dtype == np.float64]
        if (wrt is None)
        else list(wrt)
    )
    rng = np.random.default_rng(1)
    weights: list[Tensor] = []

    def gradient(*given: Any) -> tuple:
        xs = list(given)
        for i in wrt:
            if not xs[i].requires_grad:
                xs[i] = as_tensor(xs[i].array, requires_grad=True)
        out = f(*xs)
        outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if o.dtype.kind == "f"]
        if not weights:
            weights.extend(as_tensor(rng.uniform(0.5, 1.5, o.shape)) for o in outs)
        live = [(o, w) for o, w in zip(outs, weights) if o.requires_grad]
        found = gradients(
            [o for o, _ in live], [xs[i] for i in wrt], [w for _, w in live], create_graph=True, allow_unused=True
        )
        return tuple(g for g in found if g is not None)

    return gradcheck(gradient, *arrays, wrt=wrt, **tolerances)
