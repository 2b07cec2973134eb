"""Hypothesis strategies for calls of primitives: what shapes and parameters fit together.

``STRATEGIES[name]`` is a function of Hypothesis' ``draw`` that returns ``(args, params)``, where arrays are described
(:class:`Floats`, :class:`Ints`, :class:`Bools`) and not yet made, so that a case shrinks quickly. A gradient primitive
needs inputs that belong together (outputs kept from the forward pass): its calls are those that are seen while its
forward primitive is differentiated (:data:`PARENTS`).

Primitives without a strategy are checked on their :mod:`samples <minidl.testing.samples>` alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.core.context import using
from minidl.core.registry import Backend, use_backend
from minidl.core.trace import Tracer
from minidl.ops import primitives
from minidl.testing.replay import Case, is_float


def hypothesis_library() -> Any:
    """The hypothesis module; ImportError that names the extra if it is not installed."""
    try:
        import hypothesis
    except ImportError as error:
        raise ImportError('checking kernels needs hypothesis: pip install "minidl[dev]"') from error
    return hypothesis


@dataclasses.dataclass(frozen=True)
class Floats:
    """An array of the checked dtype: normal deviates, or uniform numbers between ``low`` and ``high``."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    scale: float = 1.0

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        if self.low is None:
            return np.asarray(self.scale * rng.normal(size=self.shape)).astype(dtype)
        return np.asarray(rng.uniform(self.low, self.high, self.shape)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Ints:
    """An int64 array of numbers from ``low`` up to, not including, ``high``."""

    shape: tuple[int, ...]
    low: int
    high: int

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return np.asarray(rng.integers(self.low, self.high, self.shape), np.int64)


@dataclasses.dataclass(frozen=True)
class Bools:
    """A boolean array."""

    shape: tuple[int, ...]

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return np.asarray(rng.random(self.shape) < 0.6)


Strategy = Callable[[Callable], tuple[list, dict]]
STRATEGIES: dict[str, Strategy] = {}


def strategy(*names: str) -> Callable[[Strategy], Strategy]:
    """Decorator: the function makes calls of these primitives (a kernel package may add its own)."""

    def add(function: Strategy) -> Strategy:
        STRATEGIES.update(dict.fromkeys(names, function))
        return function

    return add


def realize(name: str, args: list, params: dict, seed: int, dtype: Any) -> Case:
    """The case with arrays made for the descriptions among ``args``."""
    rng = np.random.default_rng(seed)
    made = [a.make(rng, np.dtype(dtype)) if hasattr(a, "make") else a for a in args]
    return Case(name, made, params)


# Dimensions. Small ones shrink well; the large ones leave remainders after vector widths, tiles and blocks.


def _st() -> Any:
    return hypothesis_library().strategies


def _dim(draw: Callable, least: int = 0, most: int = 5) -> int:
    return draw(_st().integers(least, most))


def _long_dim(draw: Callable, least: int = 0) -> int:
    st = _st()
    return draw(st.one_of(st.integers(least, 5), st.sampled_from([8, 15, 16, 17, 33, 63, 64, 65, 130, 257])))


def _shape(draw: Callable, least: int = 0, most: int = 3, min_side: int = 0) -> tuple[int, ...]:
    ndim = draw(_st().integers(least, most))
    sides = [_dim(draw, min_side, 4) for _ in range(max(ndim - 1, 0))]
    return tuple(sides + ([_long_dim(draw, min_side)] if ndim else []))


def _axis(draw: Callable, ndim: int, with_none: bool = True, several: bool = True) -> Any:
    st = _st()
    choices = [st.integers(-ndim, ndim - 1)] if ndim else []
    if with_none:
        choices.insert(0, st.none())
    if several and ndim:
        choices.append(st.sets(st.integers(0, ndim - 1), min_size=1).map(lambda s: tuple(sorted(s))))
    return draw(st.one_of(*choices))


# Elementwise


@strategy(
    "abs", "arctan", "ceil", "copy", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite", "isnan", "neg", "round",
    "sign", "sin", "sinh", "square", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus",
    "softsign", "sigmoid", "hardswish", "hardtanh", "normal_cdf", "contiguous", "positive", "zeros_like", "ones_like",
)  # fmt: skip
def _unary(draw: Callable) -> tuple[list, dict]:
    return [Floats(_shape(draw))], {}


@strategy("log", "log1p", "log2", "rsqrt", "sqrt")
def _positive(draw: Callable) -> tuple[list, dict]:
    return [Floats(_shape(draw), 0.1, 10.0)], {}


def _broadcasting(draw: Callable, count: int) -> list[tuple[int, ...]]:
    full = _shape(draw)
    shapes = []
    for _ in range(count):
        own = full[draw(_st().integers(0, len(full))) :]
        shapes.append(tuple(1 if draw(_st().booleans()) else n for n in own))
    shapes[draw(_st().integers(0, count - 1))] = full
    return shapes


@strategy(
    "add", "sub", "mul", "maximum", "minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"
)  # fmt: skip
def _binary(draw: Callable) -> tuple[list, dict]:
    args: list = [Floats(s) for s in _broadcasting(draw, 2)]
    scalar = draw(_st().sampled_from([None, 0, 1]))
    if scalar is not None and max(map(lambda a: len(a.shape), args)) == len(args[1 - scalar].shape):
        args[scalar] = 0.7
    return args, {}


@strategy("div")
def _div(draw: Callable) -> tuple[list, dict]:
    x, y = _broadcasting(draw, 2)
    return [Floats(x), Floats(y, 0.5, 2.0)], {}


@strategy("pow")
def _pow(draw: Callable) -> tuple[list, dict]:
    x, y = _broadcasting(draw, 2)
    return [Floats(x, 0.2, 3.0), draw(_st().sampled_from([Floats(y), 2.0, 0.5, 3]))], {}


@strategy("where")
def _where(draw: Callable) -> tuple[list, dict]:
    c, x, y = _broadcasting(draw, 3)
    return [Bools(c), Floats(x), Floats(y)], {}


@strategy("clip")
def _clip(draw: Callable) -> tuple[list, dict]:
    return [Floats(_shape(draw))], draw(_st().sampled_from([{"min": -0.5, "max": 0.6}, {"min": 0.0}, {"max": 0.3}]))


@strategy("keyed_dropout")
def _dropout(draw: Callable) -> tuple[list, dict]:
    params = {"p": draw(_st().sampled_from([0.5, 0.0, 0.1, 1.0])), "key": 12345, "offset": _dim(draw, 0, 9)}
    return [Floats(_shape(draw))], params


# Reductions


@strategy("sum", "mean", "max", "min", "prod", "logsumexp")
def _reduction(draw: Callable) -> tuple[list, dict]:
    shape = _shape(draw)
    scale = 1.0 if math.prod(shape) < 100 else 0.9  # products of many numbers leave the range of float32
    return [Floats(shape, scale=scale)], {"axis": _axis(draw, len(shape)), "keepdims": draw(_st().booleans())}


@strategy("argmax", "argmin")
def _argmax(draw: Callable) -> tuple[list, dict]:
    shape = _shape(draw, 1)
    return [Floats(shape)], {"axis": _axis(draw, len(shape), several=False), "keepdims": draw(_st().booleans())}


@strategy("var")
def _var(draw: Callable) -> tuple[list, dict]:
    shape = _shape(draw, min_side=2)
    params = {"axis": _axis(draw, len(shape)), "keepdims": draw(_st().booleans())}
    return [Floats(shape)], {**params, "correction": draw(_st().sampled_from([0, 1]))}


@strategy("cumsum", "softmax", "log_softmax")
def _along_axis(draw: Callable) -> tuple[list, dict]:
    shape = _shape(draw, 1)
    return [Floats(shape)], {"axis": _axis(draw, len(shape), with_none=False, several=False)}


# Contractions


@strategy("matmul")
def _matmul(draw: Callable) -> tuple[list, dict]:
    m, k, n = _long_dim(draw), _long_dim(draw), _long_dim(draw)
    batch = _broadcasting(draw, 2) if draw(_st().booleans()) else [(), ()]
    batch = [tuple(min(s, 3) for s in b[-2:]) for b in batch]
    x, y = (*batch[0], m, k), (*batch[1], k, n)
    form = draw(_st().sampled_from(["matrices", "vector first", "vector last", "vectors"]))
    if form in ("vector first", "vectors"):
        x = (k,)
    if form in ("vector last", "vectors"):
        y = (k,)
    return [Floats(x), Floats(y)], {}


@strategy("linear")
def _linear(draw: Callable) -> tuple[list, dict]:
    i, o = _long_dim(draw, 1), _long_dim(draw, 1)
    lead = _shape(draw, 0, 2)
    return [Floats((*lead, i)), Floats((o, i)), Floats((o,)) if draw(_st().booleans()) else None], {}


def _conv(n: int) -> Strategy:
    def conv(draw: Callable) -> tuple[list, dict]:
        st = _st()
        groups = draw(st.sampled_from([1, 1, 2, 3]))
        channels, out = groups * _dim(draw, 1, 3), groups * _dim(draw, 1, 3)
        if groups == 1 and n < 3:
            channels, out = draw(st.sampled_from([(channels, out), (8, 16), (17, 5)]))
        kernel = tuple(draw(st.sampled_from([1, 2, 3, 5])) for _ in range(n))
        if n == 2 and draw(st.booleans()):
            kernel = (3, 3)  # what special kernels are made for
        dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(n))
        stride = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(n))
        padding = tuple(_dim(draw, 0, 2) for _ in range(n))
        if n == 2 and draw(st.booleans()):  # and these above all
            groups, kernel, stride, dilation = 1, (3, 3), (1, 1), (1, 1)
            channels, out = draw(st.sampled_from([(16, 16), (16, 32), (48, 16)]))
        least = [max(d * (k - 1) + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, padding)]
        size = tuple(m + _dim(draw, 0, 9 if n < 3 else 3) for m in least)
        bias = Floats((out,)) if draw(st.booleans()) else None
        params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        x, weight = Floats((_dim(draw, 0, 3), channels, *size)), Floats((out, channels // groups, *kernel))
        return [x, weight, bias], params

    return conv


def _max_pool(n: int) -> Strategy:
    def pool(draw: Callable) -> tuple[list, dict]:
        st = _st()
        kernel = tuple(_dim(draw, 1, 3) for _ in range(n))
        dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(n))
        padding = tuple(draw(st.integers(0, (d * (k - 1) + 1) // 2)) for k, d in zip(kernel, dilation))
        params = {"kernel_size": kernel, "stride": tuple(_dim(draw, 1, 3) for _ in range(n)), "padding": padding}
        params |= {"dilation": dilation, "ceil_mode": draw(st.booleans())}
        size = tuple(d * (k - 1) + 1 + _dim(draw, 0, 8 if n < 3 else 3) for k, d in zip(kernel, dilation))
        return [Floats((_dim(draw, 0, 2), _dim(draw, 1, 3), *size))], params

    return pool


def _avg_pool(n: int) -> Strategy:
    def pool(draw: Callable) -> tuple[list, dict]:
        args, params = _max_pool(n)(draw)
        params.pop("dilation")
        params["padding"] = tuple(min(p, k // 2) for p, k in zip(params["padding"], params["kernel_size"]))
        return args, {**params, "count_include_pad": draw(_st().booleans())}

    return pool


for _n in (1, 2, 3):
    strategy(f"conv{_n}d")(_conv(_n))
    strategy(f"max_pool{_n}d")(_max_pool(_n))
    strategy(f"avg_pool{_n}d")(_avg_pool(_n))


# Normalization


def _optional(draw: Callable, shape: tuple[int, ...]) -> Any:
    return Floats(shape, 0.5, 1.5) if draw(_st().booleans()) else None


@strategy("batch_norm")
def _batch_norm(draw: Callable) -> tuple[list, dict]:
    c = _dim(draw, 1, 4)
    size = _shape(draw, 0, 2, 1)
    return [Floats((_dim(draw, 2, 5), c, *size)), _optional(draw, (c,)), _optional(draw, (c,))], {"eps": 1e-5}


@strategy("group_norm")
def _group_norm(draw: Callable) -> tuple[list, dict]:
    groups = _dim(draw, 1, 3)
    c = groups * _dim(draw, 1, 3)
    x = Floats((_dim(draw, 0, 3), c, *_shape(draw, 1, 2, 2)))
    return [x, _optional(draw, (c,)), _optional(draw, (c,))], {"num_groups": groups, "eps": 1e-5}


def _normalized(draw: Callable) -> tuple[Floats, tuple[int, ...]]:
    own = _shape(draw, 1, 2, 1)
    return Floats((*_shape(draw, 0, 2)[:2], *own)), own


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
    rows = _dim(draw, 1, 9)
    index = Ints(_shape(draw, 0, 2), 0, rows)
    return [index, Floats((rows, _long_dim(draw, 1)))], {"padding_idx": draw(_st().sampled_from([None, 0]))}


@strategy("gather")
def _gather(draw: Callable) -> tuple[list, dict]:
    shape = _shape(draw, 1, 3, 1)
    axis = draw(_st().integers(0, len(shape) - 1))
    index = tuple(_dim(draw, 0, 6) if i == axis else n for i, n in enumerate(shape))
    return [Floats(shape), Ints(index, 0, shape[axis])], {"axis": axis}


@strategy("cross_entropy")
def _cross_entropy(draw: Callable) -> tuple[list, dict]:
    st = _st()
    n, c, size = _dim(draw, 1, 9), _long_dim(draw, 1), _shape(draw, 0, 1, 1)
    smoothing, reduction = draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from(["mean", "sum", "none"]))
    # class 0 is at times the one that is ignored; were all targets, the mean would be 0 / 0
    ignore = draw(st.sampled_from([-100, 0])) if reduction != "mean" else -100
    weight = Floats((c,), 0.5, 2.0) if draw(st.booleans()) else None
    params = {"label_smoothing": smoothing, "ignore_index": ignore, "reduction": reduction}
    return [Floats((n, c, *size)), Ints((n, *size), 0, c), weight], params


# Recurrence and attention


def _recurrent(gates: int, states: int, projected: bool = False, extra: dict | None = None) -> Strategy:
    def layer(draw: Callable) -> tuple[list, dict]:
        st = _st()
        steps, n = _dim(draw, 1, 6), _dim(draw, 1, 5)
        i, h = _dim(draw, 1, 5), draw(st.sampled_from([1, 2, 3, 16, 17, 33]))
        lengths = None
        if draw(st.booleans()):
            lengths = tuple(sorted((_dim(draw, 1, steps) for _ in range(n)), reverse=True))
        out = h
        w_hr = []
        if projected:
            w_hr = [None]
            if draw(st.integers(0, 3)) == 3:
                out = draw(st.integers(1, h))
                w_hr = [Floats((out, h), scale=0.5)]
        bias = draw(st.booleans())
        args = [Floats((steps, n, i)), Floats((n, out)), *[Floats((n, h))] * (states - 1)]
        args += [Floats((gates * h, i), scale=0.5), Floats((gates * h, out), scale=0.5)]
        args += [Floats((gates * h,))] * 2 if bias else [None, None]
        params = {"reverse": draw(st.booleans()), "lengths": lengths}
        return [*args, *w_hr], {**params, **(extra or {})}

    return layer


strategy("rnn")(_recurrent(1, 1, extra={"nonlinearity": "tanh"}))
strategy("gru")(_recurrent(3, 1))
strategy("lstm")(_recurrent(4, 2, projected=True))


@strategy("scaled_dot_product_attention")
def _attention(draw: Callable) -> tuple[list, dict]:
    st = _st()
    n, kv_heads, repeat = _dim(draw, 1, 2), _dim(draw, 1, 2), draw(st.sampled_from([1, 1, 2]))
    heads = kv_heads * repeat
    length, width = draw(st.sampled_from([1, 2, 5, 17, 64, 70])), draw(st.sampled_from([1, 3, 16, 65]))
    e, ev = draw(st.sampled_from([1, 4, 8, 33])), draw(st.sampled_from([1, 4, 8, 33]))
    causal = draw(st.booleans())
    if causal:
        width = length
    mask = None
    if not causal:
        mask = draw(st.sampled_from([None, Bools((length, width)), Floats((n, 1, length, width))]))
    dropout = draw(st.sampled_from([0.0, 0.0, 0.3]))
    params = {"dropout_p": dropout, "is_causal": causal, "scale": 0.5, "key": 7, "offset": 0}
    params["block_size"] = draw(st.sampled_from([None, 16]))
    shapes = ((n, heads, length, e), (n, kv_heads, width, e), (n, kv_heads, width, ev))
    return [*map(Floats, shapes), mask], params


# Optimizers: (p, g, *state, lr, step)


def _update(states: int, with_step: bool = True, optional: int = 0, **choices: list) -> Strategy:
    def update(draw: Callable) -> tuple[list, dict]:
        st = _st()
        shape = _shape(draw, 0, 2)
        arrays = [Floats(shape), Floats(shape), *[Floats(shape, 0.01, 1.0)] * states]
        arrays += [0.05, *([draw(st.sampled_from([1, 2, 100]))] if with_step else [])]
        given = draw(st.integers(0, optional))
        arrays += [Floats(shape, 0.01, 1.0)] * given + [None] * (optional - given)
        params = {k: draw(st.sampled_from(v)) for k, v in choices.items()}
        return arrays, params

    return update


_DECAY = {"weight_decay": [0.0, 0.1], "maximize": [False, True]}
strategy("sgd_update")(_update(0, optional=1, momentum=[0.0, 0.9], nesterov=[False, True], **_DECAY))
strategy("adam_update")(_update(2, optional=1, decoupled=[False, True], **_DECAY))
strategy("rmsprop_update")(_update(1, False, optional=2, **_DECAY))
strategy("adagrad_update")(_update(1, **_DECAY))


# Gradient primitives

#: gradient primitive -> the primitive in whose gradient it is called; names that begin with its name need no entry
PARENTS = {"attention_backward": "scaled_dot_product_attention", "index_add": "getitem", "max_pool_grad": "max_pool2d"}


def parent_of(name: str) -> str | None:
    """The primitive in whose gradient the primitive ``name`` is called, if that has a strategy."""
    if name in PARENTS:
        return PARENTS[name] if PARENTS[name] in STRATEGIES else None
    for ending in ("_input_grad", "_weight_grad", "_grad", "_backward"):
        if name.endswith(ending) and name.removesuffix(ending) in STRATEGIES:
            return name.removesuffix(ending)
    return None


class Recorder(Tracer):
    """A tracer that only notes which primitives ran, with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list, dict]] = []

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        self.calls.append((prim.name, list(arrays), dict(params)))
        return compute(prim, arrays, params)


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Inside, every primitive that runs is noted in the recorder given."""
    recorder = Recorder()
    with using(tracer=recorder):
        yield recorder


_REFERENCES = Backend()


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, host arrays are served by the references alone, and nothing warns of NaNs and overflows."""
    with use_backend(_REFERENCES, strict=False), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def differentiable(case: Case) -> list[int]:
    """The inputs of a call for which the primitive has a gradient."""
    prim = primitives[case.primitive]
    if not prim.differentiable:
        return []
    return [
        i
        for i, a in enumerate(case.args)
        if isinstance(a, np.ndarray) and is_float(a.dtype) and (prim.joint is not None or i in prim.rules)
    ]


def gradients_of(case: Case, args: list, cotangents: list, wanted: list[int]) -> tuple[list, tuple]:
    """The gradients for the inputs ``wanted`` (None where there is none), with ``args`` as the values of ``case``.

    Runs on the active backend; ``cotangents`` has the gradients for the outputs, None for those that have none.
    Returns also the outputs' data.
    """
    from minidl.autograd.functional import gradients
    from minidl.core.tensor import Tensor

    tensors = [Tensor(a) if hasattr(a, "shape") else a for a in args]
    for i in wanted:
        tensors[i] = Tensor(args[i], requires_grad=True)
    out = primitives[case.primitive](*tensors, **case.params)
    outs = out if isinstance(out, tuple) else (out,)
    pairs = [(o, Tensor(g)) for o, g in zip(outs, cotangents) if g is not None and o.requires_grad]
    if not pairs:
        return [None] * len(wanted), tuple(o.data for o in outs)
    found = gradients([o for o, _ in pairs], [tensors[i] for i in wanted], [g for _, g in pairs], allow_unused=True)
    return [None if g is None else g.data for g in found], tuple(o.data for o in outs)


def cotangents_for(outs: tuple, seed: int = 0) -> list:
    """Random gradients for the floating-point outputs."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=o.shape)).astype(o.dtype) if is_float(o.dtype) else None for o in outs]


def call_in_gradient(name: str, parent: Case) -> Case | None:
    """The first call of the primitive ``name`` while ``parent`` is differentiated; None if there is none."""
    with plain(), recording() as recorder:
        out = primitives[parent.primitive](*parent.args, **parent.params)
        outs = out if isinstance(out, tuple) else (out,)
        gradients_of(parent, parent.args, cotangents_for(tuple(map(np.asarray, outs))), differentiable(parent))
    for called, args, params in recorder.calls:
        if called == name:
            return Case(name, [_host(a) for a in args], params)
    return None


def _host(a: Any) -> Any:
    return a.data if hasattr(a, "requires_grad") else a
