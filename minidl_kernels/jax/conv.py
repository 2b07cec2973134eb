"""Convolution by XLA's own, and its gradients by transposing that."""

from __future__ import annotations

import functools
from typing import Any

import jax

from minidl.backend import kernel

FLOATS = ("float32", "float64", "float16", "bfloat16")


def _floats(x: Any, y: Any, *others: Any, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty"""
    return x.dtype == y.dtype and x.dtype.name in FLOATS and x.size > 0 and y.size > 0


def _convolve(x: Any, weight: Any, *, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Any:
    return jax.lax.conv_general_dilated(
        x,
        weight,
        stride,
        [(p, p) for p in padding],
        rhs_dilation=dilation,
        feature_group_count=groups,
        precision=jax.lax.Precision.HIGHEST,  # else TPUs and GPUs round float32 inputs to fewer bits
    )


def conv(x, weight, bias=None, *, stride, padding, dilation, groups):
    out = _convolve(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return out if bias is None else out + bias.reshape(-1, *(1,) * (x.ndim - 2))


def conv_input_grad(dout, weight, *, input_size, **params):
    x = jax.ShapeDtypeStruct((dout.shape[0], weight.shape[1] * params["groups"], *input_size), dout.dtype)
    return jax.linear_transpose(lambda x: _convolve(x, weight, **params), x)(dout)[0]


def conv_weight_grad(dout, x, *, kernel_size, **params):
    weight = jax.ShapeDtypeStruct((dout.shape[1], x.shape[1] // params["groups"], *kernel_size), dout.dtype)
    return jax.linear_transpose(functools.partial(_convolve, x, **params), weight)(dout)[0]


# what is outside of an image is zero times a weight to some, and left out by others
_AT_THE_EDGE = {"nonfinite": "may differ"}
for _n in (1, 2, 3):
    for _name, _function in (("", conv), ("_input_grad", conv_input_grad), ("_weight_grad", conv_weight_grad)):
        kernel(
            f"conv{_n}d{_name}",
            backend="jax",
            when=_floats,
            dtypes=FLOATS,
            note="XLA's convolution",
            tolerance=_AT_THE_EDGE,
        )(_function)
