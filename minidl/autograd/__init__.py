"""Automatic differentiation: :mod:`~minidl.core.backward` walks the graph, :mod:`~minidl.autograd.functional` has
the derivatives of functions."""

from minidl.core.backward import (
    AnomalyError,
    detect_anomaly,
    enable_grad,
    is_grad_enabled,
    no_grad,
)

__all__ = [
    "AnomalyError",
    "checkpoint",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradients",
    "hessian",
    "is_grad_enabled",
    "jacobian",
    "jvp",
    "no_grad",
    "value_and_grad",
    "vjp",
]

_FUNCTIONAL = {"checkpoint", "grad", "gradients", "hessian", "jacobian", "jvp", "value_and_grad", "vjp"}


def __getattr__(name: str):
    # functional is built on Tensor, which is built on the engine in this package
    if name in _FUNCTIONAL:
        from minidl.autograd import functional

        return getattr(functional, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
