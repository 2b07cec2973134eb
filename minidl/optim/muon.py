"""Muon: momentum orthogonalized by Newton-Schulz."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adam_update, muon_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class Muon(Optimizer):
    """Muon for matrices (:func:`minidl.ops.optimizer.muon_update`), AdamW for the rest; arguments as in PyTorch.

    Muon is meant for the weight matrices of hidden layers. Biases, gains, embeddings and the output layer go into a
    group with ``use_muon=False``, which AdamW updates with that group's ``lr``, ``adamw_betas``, ``eps`` and
    ``weight_decay``::

        Muon([{"params": matrices, "lr": 0.02}, {"params": others, "lr": 3e-4, "use_muon": False}])

    Raises ValueError for a parameter of a Muon group that is not a matrix.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        use_muon: bool = True,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
                "use_muon": use_muon,
                "adamw_betas": adamw_betas,
            },
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"Muon: adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got {group['adjust_lr_fn']!r}"
            )
        if len(group["ns_coefficients"]) != 3 or not 0 <= group["ns_steps"] < 100:
            raise ValueError("Muon: expected three ns_coefficients and 0 <= ns_steps < 100")
        for p in group["params"]:
            if group["use_muon"] and p.ndim != 2:
                raise ValueError(
                    f"Muon: expected matrices, got a parameter of shape {p.shape}; its group needs use_muon=False"
                )

    def rule(self, group: dict[str, Any]) -> Rule:
        if not group["use_muon"]:
            beta1, beta2 = group["adamw_betas"]
            constants = {k: group[k] for k in ("eps", "weight_decay")}
            constants |= {"beta1": beta1, "beta2": beta2, "decoupled": True}
            return Rule(adam_update, ("exp_avg", "exp_avg_sq"), (None,), constants)
        names = ("momentum", "nesterov", "weight_decay", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
        return Rule(muon_update, ("momentum_buffer",), (), {k: group[k] for k in names})
