"""Adagrad."""

from __future__ import annotations

from typing import Any

from minidl.core.registry import namespace
from minidl.core.tensor import Tensor
from minidl.ops.optimizer import adagrad_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class Adagrad(Optimizer):
    """Adagrad (:func:`minidl.ops.optimizer.adagrad_update`); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def initial_state(self, name: str, p: Tensor, group: dict[str, Any]) -> Any:
        return namespace(p.data).full_like(p.data, group["initial_accumulator_value"])

    def rule(self, group: dict[str, Any]) -> Rule:
        constants = {k: group[k] for k in ("lr_decay", "eps", "weight_decay", "maximize")}
        return Rule(adagrad_update, ("sum",), (), constants)
