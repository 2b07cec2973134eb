"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from typing import Any

from minidl.core.dtypes import accumulator
from minidl.core.registry import namespace
from minidl.core.tensor import Tensor
from minidl.ops.optimizer import nadam_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, decay_rates


class NAdam(Optimizer):
    """NAdam (:func:`minidl.ops.optimizer.nadam_update`); arguments as in PyTorch."""

    lr: float = option(at_least(0), default=2e-3)
    betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.999))
    eps: float = option(at_least(0), default=1e-8)
    weight_decay: float = option(at_least(0), default=0.0)
    momentum_decay: float = option(at_least(0), default=4e-3)
    decoupled_weight_decay: bool = option(default=False)
    maximize: bool = option(default=False, kw_only=True)

    def initial_state(self, name: str, p: Tensor, group: dict[str, Any]) -> Any:
        if name == "mu_product":
            return namespace(p.array).ones((), dtype=accumulator(p.dtype))
        return super().initial_state(name, p, group)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(nadam_update, group, ("exp_avg", "exp_avg_sq", "mu_product"))
