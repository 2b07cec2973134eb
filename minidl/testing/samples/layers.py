"""Samples for what layers, losses and optimizers are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl import ops
from minidl.ops import primitives
from minidl.testing.samples.registry import SAMPLES, Sample, samples, strided, transposed


def _one(*parameter_sets: dict, shapes: tuple = ((2, 4), (), (0, 4), (2, 1, 2)), spread: float = 2.0) -> Callable:
    """One input, with each set of parameters."""

    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for params in parameter_sets or ({},):
            for shape in shapes:
                yield (np.asarray(spread * rng.normal(size=shape)),), dict(params)
            yield (strided(spread * rng.normal(size=(3, 4))),), dict(params)
            yield (transposed(spread * rng.normal(size=(3, 4))),), dict(params)

    return make


def _gradient(*parameter_sets: dict, of: str = "x", shapes: tuple = ((2, 4), (0, 4), (2, 1, 2))) -> Callable:
    """A gradient and, of one shape with it, the input (``of="x"``) or the output (a function of the input)."""

    def make(rng: np.random.Generator) -> Iterator[Sample]:
        def kept(shape: tuple, params: dict) -> np.ndarray:
            x = 2 * rng.normal(size=shape)
            return x if of == "x" else np.asarray(getattr(ops, of)(x, **params))

        for params in parameter_sets or ({},):
            for shape in shapes:
                yield (rng.normal(size=shape), kept(shape, params)), dict(params)
            yield (strided(rng.normal(size=(3, 4))), transposed(kept((3, 4), params))), dict(params)

    return make


def _forward(name: str, args: tuple, params: dict) -> Any:
    return primitives[name](*args, **params)


_NO_0D = ((2, 4), (0, 4), (2, 1, 2))

samples("relu", "tanh", "sigmoid", "silu", "mish", "softsign", "hardswish", "normal_cdf")(_one())
samples("leaky_relu")(_one({}, {"negative_slope": 0.2}))
samples("elu")(_one({}, {"alpha": 0.7}))
samples("softplus")(_one({}, {"beta": 2.0, "threshold": 3.0}))
samples("gelu")(_one({}, {"approximate": "tanh"}))
samples("hardtanh")(_one({}, {"min_val": -0.5, "max_val": 2.0}))
samples("glu")(_one({}, shapes=_NO_0D))
samples("softmax", "log_softmax")(_one({}, {"axis": 0}, shapes=_NO_0D))

samples("relu_grad")(_gradient(of="relu"))
samples("tanh_grad")(_gradient(of="tanh"))
samples("sigmoid_grad")(_gradient(of="sigmoid"))
samples("silu_grad", "mish_grad", "softsign_grad", "hardswish_grad")(_gradient())
samples("leaky_relu_grad")(_gradient({"negative_slope": 0.01}, {"negative_slope": 0.2}))
samples("elu_grad")(_gradient({"alpha": 1.0}, {"alpha": 0.7}))
samples("softplus_grad")(_gradient({"beta": 1.0, "threshold": 20.0}, {"beta": 2.0, "threshold": 3.0}))
samples("gelu_grad")(_gradient({"approximate": "none"}, {"approximate": "tanh"}))
samples("hardtanh_grad")(_gradient({"min_val": -1.0, "max_val": 1.0}, {"min_val": -0.5, "max_val": 2.0}))
samples("softmax_grad")(_gradient({"axis": -1}, {"axis": 0}, of="softmax", shapes=_NO_0D))
samples("log_softmax_grad")(_gradient({"axis": -1}, {"axis": 0}, of="log_softmax", shapes=_NO_0D))


@samples("glu_grad")
def _glu_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((2, 4), -1), ((4, 3), 0), ((0, 4), 1)):
        half = tuple(n // 2 if i == axis % 2 else n for i, n in enumerate(shape))
        yield (rng.normal(size=half), rng.normal(size=shape)), {"axis": axis}


@samples("linear")
def _linear(rng: np.random.Generator) -> Iterator[Sample]:
    for x, out in (((2, 3), 4), ((3,), 2), ((2, 2, 3), 1), ((0, 3), 2)):
        weight, bias = rng.normal(size=(out, 3)), rng.normal(size=out)
        yield (rng.normal(size=x), weight, bias), {}
        yield (rng.normal(size=x), weight, None), {}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(4, 3))), strided(rng.normal(size=4))), {}


def _convolutions(n: int) -> Iterator[dict]:
    """(input size, kernel size, channels in, channels out, parameters), spread over what matters."""
    for size, kernel, c, o, stride, padding, dilation, groups in (
        (5, 3, 2, 3, 1, 0, 1, 1),
        (5, 3, 2, 2, 2, 1, 1, 1),
        (5, 2, 2, 4, 1, 1, 2, 2),
        (4, 1, 3, 2, 1, 0, 1, 1),
        (6, 3, 2, 2, 3, 2, 1, 1),
    ):
        sizes = tuple(size + i for i in range(n)) if n < 3 else (size,) * 3
        out = tuple((s + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for s in sizes)
        yield {
            "x": (2 if n < 3 else 1, c, *sizes),
            "weight": (o, c // groups, *(kernel,) * n),
            "out": (2 if n < 3 else 1, o, *out),
            "params": {
                "stride": (stride,) * n,
                "padding": (padding,) * n,
                "dilation": (dilation,) * n,
                "groups": groups,
            },
        }


def _conv_samples(n: int) -> None:
    def some(count: int | None = None) -> list[dict]:
        cases = list(_convolutions(n))
        return cases[:2] if n == 3 else cases

    @samples(f"conv{n}d")
    def conv(rng: np.random.Generator) -> Iterator[Sample]:
        for case in some():
            x, weight = rng.normal(size=case["x"]), rng.normal(size=case["weight"])
            yield (x, weight, rng.normal(size=len(weight))), dict(case["params"])
        yield (strided(x), transposed(weight), None), dict(case["params"])
        yield (x[:0], weight, rng.normal(size=len(weight))), dict(case["params"])

    @samples(f"conv{n}d_input_grad")
    def input_grad(rng: np.random.Generator) -> Iterator[Sample]:
        for case in some():
            g, weight = rng.normal(size=case["out"]), rng.normal(size=case["weight"])
            yield (g, weight), {"input_size": case["x"][2:], **case["params"]}
        yield (transposed(g), strided(weight)), {"input_size": case["x"][2:], **case["params"]}

    @samples(f"conv{n}d_weight_grad")
    def weight_grad(rng: np.random.Generator) -> Iterator[Sample]:
        for case in some():
            g, x = rng.normal(size=case["out"]), rng.normal(size=case["x"])
            yield (g, x), {"kernel_size": case["weight"][2:], **case["params"]}
        yield (transposed(g), strided(x)), {"kernel_size": case["weight"][2:], **case["params"]}


for _n in (1, 2, 3):
    _conv_samples(_n)


# Normalization


def _normalized(rng: np.random.Generator, shapes: tuple, params: Callable, affine: Callable) -> Iterator[Sample]:
    for shape in shapes:
        weight, bias = (rng.normal(size=affine(shape)) for _ in range(2))
        yield (rng.normal(size=shape), weight, bias), params(shape)
        yield (rng.normal(size=shape), None, None), params(shape)
    yield (strided(rng.normal(size=shape)), weight, strided(bias)), params(shape)


@samples("batch_norm")
def _batch_norm(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _normalized(rng, ((4, 2), (3, 2, 2), (2, 3, 2, 2)), lambda s: {"eps": 1e-5}, lambda s: s[1])


@samples("group_norm")
def _group_norm(rng: np.random.Generator) -> Iterator[Sample]:
    params = lambda s: {"num_groups": 2, "eps": 1e-5}
    yield from _normalized(rng, ((0, 2, 3), (2, 4), (2, 4, 2), (1, 2, 2, 2)), params, lambda s: s[1])


@samples("layer_norm")
def _layer_norm(rng: np.random.Generator) -> Iterator[Sample]:
    for k in (1, 2):
        params = lambda s, k=k: {"normalized_shape": s[-k:], "eps": 1e-5}
        yield from _normalized(rng, ((0, 2, 3), (2, 4), (2, 3, 2)), params, lambda s, k=k: s[-k:])


@samples("rms_norm")
def _rms_norm(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _layer_norm(rng):
        yield args[:2], params


@samples("batch_norm_backward")
def _batch_norm_backward(rng: np.random.Generator) -> Iterator[Sample]:
    for (x, weight, bias), params in _batch_norm(rng):
        outs = _forward("batch_norm", (x, weight, bias), params)
        yield (*_like(rng, outs), x, weight, *outs[1:]), params


def _backward_of_norm(forward: Callable) -> Callable:
    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for (x, weight, *_), params in forward(rng):
            yield (rng.normal(size=x.shape), x, weight), params

    return make


samples("group_norm_backward")(_backward_of_norm(_group_norm))
samples("layer_norm_backward")(_backward_of_norm(_layer_norm))
samples("rms_norm_backward")(_backward_of_norm(_rms_norm))


# Pooling


def _pool_cases(n: int) -> Iterator[tuple[tuple, dict]]:
    """(shape, parameters shared by maximum and mean)."""
    for size, kernel, stride, padding, ceil_mode in ((5, 2, 2, 0, False), (5, 3, 2, 1, True), (4, 2, 1, 1, False)):
        shape = (2, 2, *(size + i for i in range(n))) if n < 3 else (1, 1, 4, 5, size)
        params = {"kernel_size": (kernel,) * n, "stride": (stride,) * n, "padding": (padding,) * n}
        yield shape, {**params, "ceil_mode": ceil_mode}


def _pool_samples(n: int) -> None:
    @samples(f"max_pool{n}d")
    def max_pool(rng: np.random.Generator) -> Iterator[Sample]:
        for shape, params in _pool_cases(n):
            yield (rng.normal(size=shape),), {**params, "dilation": (1,) * n}
        yield (strided(rng.normal(size=shape)),), {**params, "dilation": (2,) * n}
        yield (rng.normal(size=(0, *shape[1:])),), {**params, "dilation": (1,) * n}

    @samples(f"avg_pool{n}d")
    def avg_pool(rng: np.random.Generator) -> Iterator[Sample]:
        for shape, params in _pool_cases(n):
            for count_include_pad in (True, False):
                yield (rng.normal(size=shape),), {**params, "count_include_pad": count_include_pad}
        yield (strided(rng.normal(size=shape)),), {**params, "count_include_pad": True}
        yield (rng.normal(size=(0, *shape[1:])),), {**params, "count_include_pad": True}

    @samples(f"avg_pool{n}d_grad")
    def avg_pool_grad(rng: np.random.Generator) -> Iterator[Sample]:
        for (x,), params in avg_pool(rng):
            out = _forward(f"avg_pool{n}d", (x,), params)
            yield (rng.normal(size=out.shape),), {"input_size": x.shape[2:], **params}

    @samples(f"adaptive_max_pool{n}d")
    def adaptive_max_pool(rng: np.random.Generator) -> Iterator[Sample]:
        for out in (1, 2, 3):
            yield (rng.normal(size=(2, 1, *(5, 4, 3)[:n])),), {"output_size": (out,) * n}
        yield (strided(rng.normal(size=(1, 2, *(5, 4, 3)[:n]))),), {"output_size": (2,) * n}


for _n in (1, 2, 3):
    _pool_samples(_n)


@samples("max_pool_grad")
def _max_pool_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for n in (1, 2):
        for args, params in SAMPLES[f"max_pool{n}d"](rng):
            out, indices = _forward(f"max_pool{n}d", args, params)
            yield (rng.normal(size=out.shape), indices), {"input_size": args[0].shape[2:]}


@samples("embedding")
def _embedding(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, padding_idx in (((4,), None), ((2, 3), 1), ((), None), ((0,), None)):
        # the padding's row is not looked up: by design its gradient is not what finite differences find
        first = 0 if padding_idx is None else padding_idx + 1
        yield (np.asarray(rng.integers(first, 5, shape)), rng.normal(size=(5, 3))), {"padding_idx": padding_idx}
    yield (strided(rng.integers(0, 5, 4)), strided(rng.normal(size=(5, 3)))), {}


@samples("embedding_grad")
def _embedding_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, padding_idx in (((4,), None), ((2, 3), 1), ((), None), ((0,), None)):
        params = {"num_embeddings": 5, "padding_idx": padding_idx}
        yield (rng.normal(size=(*shape, 3)), np.asarray(rng.integers(0, 5, shape))), params
    yield (strided(rng.normal(size=(4, 3))), np.array([1, 1, 0, 1])), {"num_embeddings": 3}


# Recurrent layers: T, N, I, H = 3, 2, 2, 2

_DIRECTIONS = (
    {"reverse": False, "lengths": None},
    {"reverse": True, "lengths": None},
    {"reverse": True, "lengths": (3, 1)},
)


def _recurrent(rng: np.random.Generator, gates: int, states: int) -> Iterator[tuple[list, dict]]:
    for steps, params in ((3, _DIRECTIONS[0]), (3, _DIRECTIONS[1]), (3, _DIRECTIONS[2]), (1, _DIRECTIONS[0])):
        x = rng.normal(size=(steps, 2, 2))
        initial = [rng.normal(size=(2, 2)) for _ in range(states)]
        weights = [0.5 * rng.normal(size=(2 * gates, 2)) for _ in range(2)]
        biases = [rng.normal(size=2 * gates) for _ in range(2)]
        yield [x, *initial, *weights, *biases], dict(params)
    without = [x, *initial, *weights, None, None]
    yield [strided(a) if a is not None and i % 2 == 0 else a for i, a in enumerate(without)], dict(params)


@samples("rnn")
def _rnn(rng: np.random.Generator) -> Iterator[Sample]:
    for nonlinearity in ("tanh", "relu"):
        for args, params in _recurrent(rng, 1, 1):
            yield tuple(args), {"nonlinearity": nonlinearity, **params}


@samples("gru")
def _gru(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _recurrent(rng, 3, 1):
        yield tuple(args), params


@samples("lstm")
def _lstm(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _recurrent(rng, 4, 2):
        yield (*args, None), params
        # with a projection to one output (and so one recurrent input) a step
        x, h0, c0, w_ih, w_hh, *biases = args
        yield (x, h0[:, :1], c0, w_ih, w_hh[:, :1], *biases, rng.normal(size=(1, 2))), params


def _like(rng: np.random.Generator, arrays: tuple) -> list[np.ndarray]:
    return [np.asarray(rng.normal(size=a.shape)) for a in arrays]


@samples("rnn_backward")
def _rnn_backward(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _rnn(rng):
        outs = _forward("rnn", args, params)
        yield (*_like(rng, outs[:2]), *args[:4], outs[0]), params


@samples("gru_backward")
def _gru_backward(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _gru(rng):
        y, h, gates, hn = _forward("gru", args, params)
        yield (*_like(rng, (y, h)), *args[:4], y, gates, hn), params


@samples("lstm_backward")
def _lstm_backward(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _lstm(rng):
        y, h, c, gates, cells = _forward("lstm", args, params)
        yield (*_like(rng, (y, h, c)), *args[:5], args[7], y, gates, cells), params


# Attention

_ATTENTION = {"dropout_p": 0.0, "is_causal": False, "scale": 0.7, "block_size": None, "key": 0, "offset": 0}


@samples("scaled_dot_product_attention")
def _attention(rng: np.random.Generator) -> Iterator[Sample]:
    def qkv(heads: int = 2, kv_heads: int = 2, length: int = 3, width: int = 4) -> list[np.ndarray]:
        shapes = ((1, heads, length, 2), (1, kv_heads, width, 2), (1, kv_heads, width, 3))
        return [rng.normal(size=s) for s in shapes]

    some = np.array([[True, False, True, True], [False, False, False, False], [True, True, False, True]])
    yield (*qkv(), None), dict(_ATTENTION)
    yield (*qkv(width=3), None), {**_ATTENTION, "is_causal": True}
    yield (*qkv(), some), dict(_ATTENTION)
    yield (*qkv(), rng.normal(size=(1, 1, 3, 4))), dict(_ATTENTION)
    yield (*qkv(heads=4), None), dict(_ATTENTION)
    yield (*qkv(), None), {**_ATTENTION, "block_size": 2}
    yield (*qkv(width=3), some[:, :3]), {**_ATTENTION, "block_size": 2, "is_causal": True}
    yield (*qkv(), None), {**_ATTENTION, "dropout_p": 0.4, "key": 11, "offset": 3}
    yield (*qkv(length=0), None), dict(_ATTENTION)
    q, k, v = qkv()
    yield (strided(q), transposed(k), strided(v), None), dict(_ATTENTION)


@samples("attention_backward")
def _attention_backward(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _attention(rng):
        out, lse = _forward("scaled_dot_product_attention", args, params)
        float_mask = args[3] is not None and args[3].dtype.kind == "f"
        yield (*_like(rng, (out, lse)), *args, out, lse), {**params, "need_mask": float_mask}


# Losses


@samples("huber")
def _huber(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _one({"delta": 1.0}, {"delta": 0.3})(rng)


@samples("bernoulli_nll")
def _bernoulli_nll(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((2, 3), (), (0, 3)):
        yield (np.asarray(rng.uniform(0.05, 0.95, shape)), np.asarray(rng.uniform(0.1, 0.9, shape))), {}
    yield (strided(rng.uniform(0.05, 0.95, (2, 3))), transposed(rng.uniform(0.1, 0.9, (2, 3)))), {}


@samples("bernoulli_nll_with_logits")
def _bernoulli_nll_with_logits(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((2, 3), (0, 3)):
        x, target = 2 * rng.normal(size=shape), rng.uniform(0.1, 0.9, shape)
        yield (x, target, None), {}
        yield (x, target, rng.uniform(0.5, 2, 3)), {}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.uniform(0.1, 0.9, (2, 3))), None), {}


_CE = {"label_smoothing": 0.0, "ignore_index": -100, "reduction": "mean"}


@samples("cross_entropy")
def _cross_entropy(rng: np.random.Generator) -> Iterator[Sample]:
    weight = rng.uniform(0.5, 2, 3)
    ignoring = np.array([0, -100, 2, 1])
    yield (rng.normal(size=(4, 3)), rng.integers(0, 3, 4), None), dict(_CE)
    yield (rng.normal(size=(4, 3)), ignoring, weight), dict(_CE)
    yield (rng.normal(size=(4, 3)), ignoring, weight), {**_CE, "label_smoothing": 0.1, "reduction": "sum"}
    yield (rng.normal(size=(2, 3, 2)), rng.integers(0, 3, (2, 2)), None), {**_CE, "reduction": "none"}
    yield (rng.normal(size=(2, 3, 2)), rng.integers(0, 3, (2, 2)), weight), {**_CE, "label_smoothing": 0.2}
    yield (rng.normal(size=3), np.array(1), None), dict(_CE)
    yield (strided(rng.normal(size=(4, 3))), strided(rng.integers(0, 3, 4)), None), dict(_CE)


@samples("cross_entropy_grad")
def _cross_entropy_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for (logits, target, weight), params in _cross_entropy(rng):
        loss, *kept = map(np.asarray, _forward("cross_entropy", (logits, target, weight), params))
        yield (*_like(rng, (loss,)), logits, target, *kept, weight), params
    # one target of infinite weight, of which the other entries' zeros know nothing
    logits, target, weight = rng.normal(size=(2, 3)), np.array([1, 2]), np.array([1.0, np.inf, 2.0])
    _, *kept = map(np.asarray, _forward("cross_entropy", (logits, target, weight), {**_CE, "reduction": "sum"}))
    yield (np.asarray(0.5), logits, target, *kept, weight), {**_CE, "reduction": "sum"}


@samples("ctc_nll")
def _ctc_nll(rng: np.random.Generator) -> Iterator[Sample]:
    def log_probs(steps: int, batch: int, classes: int) -> np.ndarray:
        scores = rng.normal(size=(steps, batch, classes))
        return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))

    targets = np.array([[1, 2], [2, 2]])
    yield (log_probs(4, 2, 3), targets, np.array([4, 4]), np.array([2, 2])), {"blank": 0}
    yield (log_probs(4, 2, 3), targets, np.array([4, 3]), np.array([1, 2])), {"blank": 0}
    yield (log_probs(3, 1, 3), np.array([[0]]), np.array([3]), np.array([1])), {"blank": 2}


@samples("ctc_nll_grad")
def _ctc_nll_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for args, params in _ctc_nll(rng):
        outs = _forward("ctc_nll", args, params)
        yield (*_like(rng, outs[:1]), *outs, *args), params


# Optimizers


def _update(states: str, *parameter_sets: dict, with_step: bool = True, optional: int = 0, matrix: bool = False) -> Any:
    """``states`` has a letter for each state array: n for any values, p for positive ones, s for small ones."""

    def make(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(kind: str, shape: tuple) -> np.ndarray:
            a = np.asarray(rng.normal(size=shape))
            return np.abs(a) + 0.01 if kind == "p" else 0.02 * a if kind == "s" else a

        for shape in ((3, 4),) if matrix else ((3, 4), (5,), (0, 3)):
            for step in (1, 5) if with_step else (None,):
                for given in range(optional + 1):
                    for params in parameter_sets or ({},):
                        arrays = [draw(kind, shape) for kind in f"nn{states}"]
                        if step == 5 and len(shape) == 2:
                            arrays = [strided(arrays[0]), transposed(arrays[1]), *arrays[2:]]
                        required = len(arrays) - optional
                        args: list[Any] = [*arrays[:required], 0.05, *([] if step is None else [step])]
                        args += [a if i < given else None for i, a in enumerate(arrays[required:])]
                        yield tuple(args), dict(params)

    return make


samples("sgd_update")(
    _update("n", {}, {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "nesterov": True}, optional=1)
)
samples("adam_update")(
    _update("npp", {}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True, "maximize": True}, optional=1)
)
samples("rmsprop_update")(_update("psn", {}, {"momentum": 0.9, "weight_decay": 0.1}, with_step=False, optional=2))
samples("adagrad_update")(_update("p", {}, {"lr_decay": 0.1, "weight_decay": 0.1}))
samples("adadelta_update")(_update("pp", {}, {"weight_decay": 0.1}, with_step=False))
samples("radam_update", "lamb_update")(_update("np", {}, {"weight_decay": 0.1}))
samples("lars_update")(_update("n", {}, {"weight_decay": 0.1, "adapt": False}, with_step=False))
samples("lion_update")(_update("n", {}, {"weight_decay": 0.1}, with_step=False))
samples("muon_update")(_update("n", {}, {"nesterov": False}, with_step=False, matrix=True))


@samples("nadam_update")
def _nadam_update(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((3, 4), (0, 3)):
        p, g, m, v = (rng.normal(size=shape) for _ in range(4))
        yield (p, g, m, v * v, np.asarray(0.8), 0.05, 3), {}
        yield (p, g, m, v * v, np.asarray(0.8), 0.05, 1), {"weight_decay": 0.1, "decoupled": True}


@samples("ema_update")
def _ema_update(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((3, 4), (), (0, 3)):
        yield (np.asarray(rng.normal(size=shape)), np.asarray(rng.normal(size=shape)), 0.9), {}
