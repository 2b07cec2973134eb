"""Muon: momentum orthogonalized by Newton-Schulz."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adam_update, muon_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import Range, at_least, decay_rates, one_of


class Muon(Optimizer):
    """Muon for matrices (:func:`minidl.ops.optimizer.muon_update`), AdamW for the rest; arguments as in PyTorch.

    Muon is meant for the weight matrices of hidden layers. Biases, gains, embeddings and the output layer go into a
    group with ``use_muon=False``, which AdamW updates with that group's ``lr``, ``adamw_betas``, ``eps`` and
    ``weight_decay``::

        Muon([{"params": matrices, "lr": 0.02}, {"params": others, "lr": 3e-4, "use_muon": False}])

    Raises ValueError for a parameter of a Muon group that is not a matrix.
    """

    lr: float = option(at_least(0), default=1e-3)
    weight_decay: float = option(at_least(0), default=0.1)
    momentum: float = option(at_least(0), default=0.95)
    nesterov: bool = option(default=True)
    ns_coefficients: tuple[float, float, float] = option(
        Range(lambda value: len(value) == 3, "three numbers"), default=(3.4445, -4.775, 2.0315)
    )
    eps: float = option(at_least(0), default=1e-7)
    ns_steps: int = option(Range(lambda value: 0 <= value < 100, "in [0, 100)"), default=5)
    adjust_lr_fn: str | None = option(one_of(None, "original", "match_rms_adamw"), default=None)
    use_muon: bool = option(default=True, kw_only=True)
    adamw_betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.999), kw_only=True)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        for p in group["params"]:
            if group["use_muon"] and p.ndim != 2:
                raise ValueError(
                    f"Muon: expected matrices, got a parameter of shape {p.shape}; its group needs use_muon=False"
                )

    def rule(self, group: dict[str, Any]) -> Rule:
        if group["use_muon"]:
            return Rule.of(muon_update, group, ("momentum_buffer",))
        adamw = {**group, "betas": group["adamw_betas"], "decoupled_weight_decay": True, "maximize": False}
        return Rule.of(adam_update, adamw, ("exp_avg", "exp_avg_sq"), (None,))
