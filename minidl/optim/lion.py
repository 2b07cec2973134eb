"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lion_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, decay_rates


class Lion(Optimizer):
    """Lion (:func:`minidl.ops.optimizer.lion_update`).

    Every coordinate moves by ``lr`` at each step, so choose ``lr`` 3 to 10 times smaller than for AdamW.
    """

    lr: float = option(at_least(0), default=1e-4)
    betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.99))
    weight_decay: float = option(at_least(0), default=0.0)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(lion_update, group, ("exp_avg",))
