"""Automatic differentiation for users: recording modes, and the derivatives of functions.

The graph and the walk back through it are in :mod:`minidl.core.graph` and :mod:`minidl.core.backward`.
"""

from minidl.autograd.functional import checkpoint, grad, gradients, hessian, jacobian, jvp, value_and_grad, vjp
from minidl.core.context import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from minidl.core.errors import AnomalyError

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
