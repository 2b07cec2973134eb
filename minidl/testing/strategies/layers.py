"""Strategies for what layers, losses and optimizers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.testing.strategies.registry import (
    Bools,
    Floats,
    Ints,
    Strategy,
    draw_dim,
    draw_long_dim,
    draw_shape,
    st,
    strategy,
)

# Convolution and pooling


def _conv(n: int) -> Strategy:
    def conv(draw: Callable) -> tuple[list, dict]:
        groups = draw(st().sampled_from([1, 1, 2, 3]))
        channels, out = groups * draw_dim(draw, 1, 3), groups * draw_dim(draw, 1, 3)
        if groups == 1 and n < 3:
            channels, out = draw(st().sampled_from([(channels, out), (8, 16), (17, 5)]))
        kernel = tuple(draw(st().sampled_from([1, 2, 3, 5])) for _ in range(n))
        if n == 2 and draw(st().booleans()):
            kernel = (3, 3)  # what special kernels are made for
        dilation = tuple(draw(st().sampled_from([1, 1, 2])) for _ in range(n))
        stride = tuple(draw(st().sampled_from([1, 1, 2, 3])) for _ in range(n))
        padding = tuple(draw_dim(draw, 0, 2) for _ in range(n))
        if n == 2 and draw(st().booleans()):  # and these above all
            groups, kernel, stride, dilation = 1, (3, 3), (1, 1), (1, 1)
            channels, out = draw(st().sampled_from([(16, 16), (16, 32), (48, 16)]))
        least = [max(d * (k - 1) + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, padding)]
        size = tuple(m + draw_dim(draw, 0, 9 if n < 3 else 3) for m in least)
        bias = Floats((out,)) if draw(st().booleans()) else None
        params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        x, weight = Floats((draw_dim(draw, 0, 3), channels, *size)), Floats((out, channels // groups, *kernel))
        return [x, weight, bias], params

    return conv


def _max_pool(n: int) -> Strategy:
    def pool(draw: Callable) -> tuple[list, dict]:
        kernel = tuple(draw_dim(draw, 1, 3) for _ in range(n))
        dilation = tuple(draw(st().sampled_from([1, 1, 2])) for _ in range(n))
        padding = tuple(draw(st().integers(0, (d * (k - 1) + 1) // 2)) for k, d in zip(kernel, dilation))
        params = {"kernel_size": kernel, "stride": tuple(draw_dim(draw, 1, 3) for _ in range(n)), "padding": padding}
        params |= {"dilation": dilation, "ceil_mode": draw(st().booleans())}
        size = tuple(d * (k - 1) + 1 + draw_dim(draw, 0, 8 if n < 3 else 3) for k, d in zip(kernel, dilation))
        return [Floats((draw_dim(draw, 0, 2), draw_dim(draw, 1, 3), *size))], params

    return pool


def _avg_pool(n: int) -> Strategy:
    def pool(draw: Callable) -> tuple[list, dict]:
        args, params = _max_pool(n)(draw)
        params.pop("dilation")
        params["padding"] = tuple(min(p, k // 2) for p, k in zip(params["padding"], params["kernel_size"]))
        return args, {**params, "count_include_pad": draw(st().booleans())}

    return pool


for _n in (1, 2, 3):
    strategy(f"conv{_n}d")(_conv(_n))
    strategy(f"max_pool{_n}d")(_max_pool(_n))
    strategy(f"avg_pool{_n}d")(_avg_pool(_n))


# Normalization


def _optional(draw: Callable, shape: tuple[int, ...]) -> Any:
    return Floats(shape, 0.5, 1.5) if draw(st().booleans()) else None


@strategy("batch_norm")
def _batch_norm(draw: Callable) -> tuple[list, dict]:
    c = draw_dim(draw, 1, 4)
    size = draw_shape(draw, 0, 2, 1)
    return [Floats((draw_dim(draw, 2, 5), c, *size)), _optional(draw, (c,)), _optional(draw, (c,))], {"eps": 1e-5}


@strategy("group_norm")
def _group_norm(draw: Callable) -> tuple[list, dict]:
    groups = draw_dim(draw, 1, 3)
    c = groups * draw_dim(draw, 1, 3)
    x = Floats((draw_dim(draw, 0, 3), c, *draw_shape(draw, 1, 2, 2)))
    return [x, _optional(draw, (c,)), _optional(draw, (c,))], {"num_groups": groups, "eps": 1e-5}


def _normalized(draw: Callable) -> tuple[Floats, tuple[int, ...]]:
    own = draw_shape(draw, 1, 2, 1)
    return Floats((*draw_shape(draw, 0, 2)[:2], *own)), own


@strategy("layer_norm")
def _layer_norm(draw: Callable) -> tuple[list, dict]:
    x, own = _normalized(draw)
    return [x, _optional(draw, own), _optional(draw, own)], {"normalized_shape": own, "eps": 1e-5}


@strategy("rms_norm")
def _rms_norm(draw: Callable) -> tuple[list, dict]:
    x, own = _normalized(draw)
    return [x, _optional(draw, own)], {"normalized_shape": own, "eps": 1e-5}


# Tables, losses


@strategy("embedding")
def _embedding(draw: Callable) -> tuple[list, dict]:
    rows = draw_dim(draw, 1, 9)
    index = Ints(draw_shape(draw, 0, 2), 0, rows)
    return [index, Floats((rows, draw_long_dim(draw, 1)))], {"padding_idx": draw(st().sampled_from([None, 0]))}


@strategy("gather")
def _gather(draw: Callable) -> tuple[list, dict]:
    shape = draw_shape(draw, 1, 3, 1)
    axis = draw(st().integers(0, len(shape) - 1))
    index = tuple(draw_dim(draw, 0, 6) if i == axis else n for i, n in enumerate(shape))
    return [Floats(shape), Ints(index, 0, shape[axis])], {"axis": axis}


@strategy("cross_entropy")
def _cross_entropy(draw: Callable) -> tuple[list, dict]:
    n, c, size = draw_dim(draw, 1, 9), draw_long_dim(draw, 1), draw_shape(draw, 0, 1, 1)
    smoothing, reduction = draw(st().sampled_from([0.0, 0.1])), draw(st().sampled_from(["mean", "sum", "none"]))
    # class 0 is sometimes the ignored one; if all targets were ignored, the mean would be 0 / 0
    ignore = draw(st().sampled_from([-100, 0])) if reduction != "mean" else -100
    weight = Floats((c,), 0.5, 2.0) if draw(st().booleans()) else None
    params = {"label_smoothing": smoothing, "ignore_index": ignore, "reduction": reduction}
    return [Floats((n, c, *size)), Ints((n, *size), 0, c), weight], params


# Recurrence and attention


def _recurrent(gates: int, states: int, projected: bool = False, extra: dict | None = None) -> Strategy:
    def layer(draw: Callable) -> tuple[list, dict]:
        steps, n = draw_dim(draw, 1, 6), draw_dim(draw, 1, 5)
        i, h = draw_dim(draw, 1, 5), draw(st().sampled_from([1, 2, 3, 16, 17, 33]))
        lengths = None
        if draw(st().booleans()):
            lengths = tuple(sorted((draw_dim(draw, 1, steps) for _ in range(n)), reverse=True))
        out = h
        w_hr: list[Floats | None] = []
        if projected:
            w_hr = [None]
            if draw(st().integers(0, 3)) == 3:
                out = draw(st().integers(1, h))
                w_hr = [Floats((out, h), scale=0.5)]
        bias = draw(st().booleans())
        args: list[Floats | None] = [Floats((steps, n, i)), Floats((n, out)), *[Floats((n, h))] * (states - 1)]
        args += [Floats((gates * h, i), scale=0.5), Floats((gates * h, out), scale=0.5)]
        args += [Floats((gates * h,))] * 2 if bias else [None, None]
        params = {"reverse": draw(st().booleans()), "lengths": lengths}
        return [*args, *w_hr], {**params, **(extra or {})}

    return layer


strategy("rnn")(_recurrent(1, 1, extra={"nonlinearity": "tanh"}))
strategy("gru")(_recurrent(3, 1))
strategy("lstm")(_recurrent(4, 2, projected=True))


@strategy("scaled_dot_product_attention")
def _attention(draw: Callable) -> tuple[list, dict]:
    n, kv_heads, repeat = draw_dim(draw, 1, 2), draw_dim(draw, 1, 2), draw(st().sampled_from([1, 1, 2]))
    heads = kv_heads * repeat
    length, width = draw(st().sampled_from([1, 2, 5, 17, 64, 70])), draw(st().sampled_from([1, 3, 16, 65]))
    e, ev = draw(st().sampled_from([1, 4, 8, 33])), draw(st().sampled_from([1, 4, 8, 33]))
    causal = draw(st().booleans())
    if causal:
        width = length
    mask = None
    if not causal:
        mask = draw(st().sampled_from([None, Bools((length, width)), Floats((n, 1, length, width))]))
    dropout = draw(st().sampled_from([0.0, 0.0, 0.3]))
    params = {"dropout_p": dropout, "is_causal": causal, "scale": 0.5, "key": 7, "offset": 0}
    params["block_size"] = draw(st().sampled_from([None, 16]))
    shapes = ((n, heads, length, e), (n, kv_heads, width, e), (n, kv_heads, width, ev))
    return [*map(Floats, shapes), mask], params


# Optimizers: (p, g, *state, lr, step)


def _update(states: int, with_step: bool = True, optional: int = 0, **choices: list) -> Strategy:
    def update(draw: Callable) -> tuple[list, dict]:
        shape = draw_shape(draw, 0, 2)
        arrays: list[Any] = [Floats(shape), Floats(shape), *[Floats(shape, 0.01, 1.0)] * states]
        arrays += [0.05, *([draw(st().sampled_from([1, 2, 100]))] if with_step else [])]
        given = draw(st().integers(0, optional))
        arrays += [Floats(shape, 0.01, 1.0)] * given + [None] * (optional - given)
        params = {k: draw(st().sampled_from(v)) for k, v in choices.items()}
        return arrays, params

    return update


_DECAY: dict[str, Any] = {"weight_decay": [0.0, 0.1], "maximize": [False, True]}
strategy("sgd_update")(_update(0, optional=1, momentum=[0.0, 0.9], nesterov=[False, True], **_DECAY))
strategy("adam_update")(_update(2, optional=1, decoupled=[False, True], **_DECAY))
strategy("rmsprop_update")(_update(1, False, optional=2, **_DECAY))
strategy("adagrad_update")(_update(1, **_DECAY))
