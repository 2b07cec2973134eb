"""Adagrad."""

from __future__ import annotations

from typing import Any

from minidl.core.tensor import Tensor
from minidl.ops.optimizer import adagrad_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least


class Adagrad(Optimizer):
    """Adagrad (:func:`minidl.ops.optimizer.adagrad_update`); arguments as in PyTorch."""

    lr: float = option(at_least(0), default=1e-2)
    lr_decay: float = option(at_least(0), default=0.0)
    weight_decay: float = option(at_least(0), default=0.0)
    initial_accumulator_value: float = option(at_least(0), default=0.0)
    eps: float = option(at_least(0), default=1e-10)
    maximize: bool = option(default=False, kw_only=True)

    def initial_state(self, name: str, p: Tensor, group: dict[str, Any]) -> Any:
        return super().initial_state(name, p, group) + group["initial_accumulator_value"]

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(adagrad_update, group, ("sum",))
