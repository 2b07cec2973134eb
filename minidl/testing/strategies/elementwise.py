"""Strategies for elementwise operations, reductions and contractions."""

from __future__ import annotations

import math
from collections.abc import Callable

from minidl.testing.strategies.registry import (
    Bools,
    Floats,
    draw_axis,
    draw_dim,
    draw_long_dim,
    draw_shape,
    st,
    strategy,
)

# Elementwise


@strategy(
    "abs", "arcsinh", "arctan", "ceil", "copy", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite", "isnan",
    "neg", "round", "sign", "sin", "sinh", "square", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "mish",
    "softplus", "softsign", "sigmoid", "hardswish", "hardtanh", "normal_cdf", "contiguous", "positive", "zeros_like",
    "ones_like",
)  # fmt: skip
def unary(draw: Callable) -> tuple[list, dict]:
    return [Floats(draw_shape(draw))], {}


@strategy("log", "log1p", "log2", "rsqrt", "sqrt")
def positive(draw: Callable) -> tuple[list, dict]:
    return [Floats(draw_shape(draw), 0.1, 10.0)], {}


@strategy("arcsin", "arccos", "arctanh")
def within_one(draw: Callable) -> tuple[list, dict]:
    return [Floats(draw_shape(draw), -0.95, 0.95)], {}


@strategy("arccosh")
def above_one(draw: Callable) -> tuple[list, dict]:
    return [Floats(draw_shape(draw), 1.05, 10.0)], {}


def _broadcasting(draw: Callable, count: int) -> list[tuple[int, ...]]:
    full = draw_shape(draw)
    shapes = []
    for _ in range(count):
        own = full[draw(st().integers(0, len(full))) :]
        shapes.append(tuple(1 if draw(st().booleans()) else n for n in own))
    shapes[draw(st().integers(0, count - 1))] = full
    return shapes


@strategy(
    "add", "sub", "mul", "maximum", "minimum", "eq", "not_equal", "less", "less_equal", "greater", "greater_equal"
)  # fmt: skip
def binary(draw: Callable) -> tuple[list, dict]:
    args: list = [Floats(s) for s in _broadcasting(draw, 2)]
    scalar = draw(st().sampled_from([None, 0, 1]))
    if scalar is not None and max(map(lambda a: len(a.shape), args)) == len(args[1 - scalar].shape):
        args[scalar] = 0.7
    return args, {}


@strategy("div")
def division(draw: Callable) -> tuple[list, dict]:
    x, y = _broadcasting(draw, 2)
    return [Floats(x), Floats(y, 0.5, 2.0)], {}


@strategy("pow")
def _pow(draw: Callable) -> tuple[list, dict]:
    x, y = _broadcasting(draw, 2)
    return [Floats(x, 0.2, 3.0), draw(st().sampled_from([Floats(y), 2.0, 0.5, 3]))], {}


@strategy("where")
def _where(draw: Callable) -> tuple[list, dict]:
    c, x, y = _broadcasting(draw, 3)
    return [Bools(c), Floats(x), Floats(y)], {}


@strategy("clip")
def _clip(draw: Callable) -> tuple[list, dict]:
    return [Floats(draw_shape(draw))], draw(st().sampled_from([{"min": -0.5, "max": 0.6}, {"min": 0.0}, {"max": 0.3}]))


@strategy("keyed_dropout")
def _dropout(draw: Callable) -> tuple[list, dict]:
    params = {"p": draw(st().sampled_from([0.5, 0.0, 0.1, 1.0])), "key": 12345, "offset": draw_dim(draw, 0, 9)}
    return [Floats(draw_shape(draw))], params


# Reductions


@strategy("sum", "mean", "amax", "amin", "prod", "logsumexp")
def _reduction(draw: Callable) -> tuple[list, dict]:
    shape = draw_shape(draw)
    scale = 1.0 if math.prod(shape) < 100 else 0.9  # products of many numbers leave the range of float32
    return [Floats(shape, scale=scale)], {"axis": draw_axis(draw, len(shape)), "keepdims": draw(st().booleans())}


@strategy("argmax", "argmin")
def _argmax(draw: Callable) -> tuple[list, dict]:
    shape = draw_shape(draw, 1)
    return [Floats(shape)], {"axis": draw_axis(draw, len(shape), several=False), "keepdims": draw(st().booleans())}


@strategy("var")
def _var(draw: Callable) -> tuple[list, dict]:
    shape = draw_shape(draw, min_side=2)
    params = {"axis": draw_axis(draw, len(shape)), "keepdims": draw(st().booleans())}
    return [Floats(shape)], {**params, "correction": draw(st().sampled_from([0, 1]))}


@strategy("cumsum", "softmax", "log_softmax")
def _along_axis(draw: Callable) -> tuple[list, dict]:
    shape = draw_shape(draw, 1)
    return [Floats(shape)], {"axis": draw_axis(draw, len(shape), with_none=False, several=False)}


# Contractions


@strategy("matmul")
def _matmul(draw: Callable) -> tuple[list, dict]:
    m, k, n = draw_long_dim(draw), draw_long_dim(draw), draw_long_dim(draw)
    batch = _broadcasting(draw, 2) if draw(st().booleans()) else [(), ()]
    batch = [tuple(min(s, 3) for s in b[-2:]) for b in batch]
    x, y = (*batch[0], m, k), (*batch[1], k, n)
    form = draw(st().sampled_from(["matrices", "vector first", "vector last", "vectors"]))
    if form in ("vector first", "vectors"):
        x = (k,)
    if form in ("vector last", "vectors"):
        y = (k,)
    return [Floats(x), Floats(y)], {}


@strategy("linear")
def _linear(draw: Callable) -> tuple[list, dict]:
    i, o = draw_long_dim(draw, 1), draw_long_dim(draw, 1)
    lead = draw_shape(draw, 0, 2)
    return [Floats((*lead, i)), Floats((o, i)), Floats((o,)) if draw(st().booleans()) else None], {}
