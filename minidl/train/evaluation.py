"""A model's outputs without training it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minidl.core.context import no_grad
from minidl.core.tensor import Tensor, as_tensor
from minidl.train.metrics import as_array


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Inside, ``model`` is in evaluation mode and no gradients are recorded; afterwards layers have their old modes."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: Any, data: Any, batch_size: int = 256, carry_state: bool = False) -> np.ndarray:
    """The model's outputs for all of ``data``: an array of inputs, or a loader of batches.

    Of the batches of a loader, ``(input, …, target)`` or the bare input, the targets are not used. With ``carry_state``
    the model is called as ``model(input, …, state)`` and returns ``(output, state)``.
    """
    if isinstance(data, (np.ndarray, Tensor)):
        batches: Iterable = ((data[i : i + batch_size],) for i in range(0, len(data), batch_size))
    else:
        batches = (tuple(b[:-1]) if isinstance(b, (tuple, list)) and len(b) > 1 else (b,) for b in data)
    outputs, state = [], None
    with evaluating(model):
        for batch in batches:
            inputs = tuple(as_tensor(part) for part in batch)
            if carry_state:
                output, state = model(*inputs, state)
            else:
                output = model(*inputs)
            outputs.append(as_array(output))
    if not outputs:
        raise ValueError("predict: there are no batches")
    return np.concatenate(outputs)
