"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import HALVES
from minidl.core.tensor import Tensor, as_tensor

_FLOAT32 = np.dtype(np.float32)


def with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(parameter, gradient) for each parameter that has a gradient."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [(p, p.grad) for p in parameters if p.grad is not None]


def replace_gradients(found: list[tuple[Tensor, Tensor]], function: Callable[[Any], Any]) -> None:
    """Apply ``function`` to the array of each gradient, once where several parameters share a gradient.

    The result goes into the gradient's own memory if that is host memory which no graph (``create_graph``) refers to.
    """
    done: dict[int, Tensor] = {}
    for p, grad in found:
        if id(grad) not in done:
            array = function(grad.array)
            in_place = isinstance(grad.array, np.ndarray) and grad.array.flags.writeable and grad.is_leaf
            done[id(grad)] = grad.assign_(array) if in_place else as_tensor(array)
        p.grad = done[id(grad)]


def _norm(x: Any, norm_type: float) -> Any:
    if math.isinf(norm_type):
        return ops.amax(ops.abs(x))
    if norm_type == 2:
        flat = ops.reshape(x, shape=(-1,))
        return ops.sqrt(ops.matmul(flat, flat))
    return ops.pow(ops.sum(ops.pow(ops.abs(x), norm_type)), 1.0 / norm_type)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all ``tensors`` as one long vector: a 0-d Tensor, zero if there are none.

    ``norm_type`` is any p > 0 or ``inf`` (the largest magnitude). Raises ValueError for another ``norm_type`` and, with
    ``error_if_nonfinite``, RuntimeError if the norm is NaN or infinite.
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"get_total_norm: norm_type must be positive, got {norm_type}")
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    arrays = [t.array if t.dtype not in HALVES else ops.astype(t.array, dtype=_FLOAT32) for t in tensors if t.numel()]
    if not arrays:
        return as_tensor(0.0)
    norms = [_norm(a, norm_type) for a in arrays]
    total = as_tensor(norms[0] if len(norms) == 1 else _norm(ops.stack(norms), norm_type))
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(f"the total norm of order {norm_type:g} of the gradients is {total.item()}")
    return total


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients of ``parameters`` so that their total norm is at most ``max_norm``; return the norm before.

    The factor is ``min(1, max_norm / (norm + 1e-6))``, as in PyTorch (Pascanu et al., "On the difficulty of training
    recurrent neural networks", 2013). Parameters without gradient are skipped. Raises as :func:`get_total_norm`.

    >>> from minidl import nn, optim, tensor
    >>> p = nn.Parameter([0.0, 0.0])
    >>> p.grad = tensor([3.0, 4.0])
    >>> optim.clip_grad_norm_([p], max_norm=1.0)
    tensor(5.)
    >>> p.grad.numpy().round(4)
    array([0.6, 0.8], dtype=float32)
    """
    found = with_gradients(parameters)
    total = get_total_norm([grad for _, grad in found], norm_type, error_if_nonfinite)
    if not found:
        return total
    factor: Any = ops.minimum(ops.div(float(max_norm), ops.add(total.array, 1e-6)), 1.0)
    # a factor of 1 saves the work, where its value is at hand: not on a device, nor in a step that is being captured
    at_hand = type(factor) is np.ndarray or isinstance(factor, np.generic)
    if not (at_hand and factor >= 1):
        replace_gradients(found, lambda g: ops.mul(g, ops.astype(factor, dtype=g.dtype)))
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip every element of the gradients of ``parameters`` to ``[-clip_value, clip_value]``."""
    bound = float(clip_value)
    replace_gradients(with_gradients(parameters), lambda g: ops.clip(g, min=-bound, max=bound))
