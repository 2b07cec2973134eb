"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adam_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, decay_rates


class Adam(Optimizer):
    """Adam (:func:`minidl.ops.optimizer.adam_update`); arguments as in PyTorch.

    ``weight_decay`` is added to the gradient, or with ``decoupled_weight_decay`` applied to the parameter (AdamW).
    """

    lr: float = option(at_least(0), default=1e-3)
    betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.999))
    eps: float = option(at_least(0), default=1e-8)
    weight_decay: float = option(at_least(0), default=0.0)
    amsgrad: bool = option(default=False)
    maximize: bool = option(default=False, kw_only=True)
    decoupled_weight_decay: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        largest = "max_exp_avg_sq" if group["amsgrad"] else None
        return Rule.of(adam_update, group, ("exp_avg", "exp_avg_sq"), (largest,))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019); arguments as in PyTorch."""

    weight_decay: float = option(at_least(0), default=1e-2)
    decoupled_weight_decay: bool = option(default=True, init=False)
