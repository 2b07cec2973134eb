"""PyTorch's own samples, given to PyTorch and to the minidl function of the same name; what differs is told."""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db

import minidl
import minidl.nn.functional as F
from minidl.autograd import gradients
from minidl.core.registry import load, to_numpy

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "bool")
BACKENDS = ("numpy", "numba", "jax")
#: relative error allowed, and absolute for results of the order of 1
TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
#: keywords about memory, devices and streams, which minidl does not have or decides by itself
MEANINGLESS = {"device", "layout", "memory_format", "pin_memory", "generator", "out"}


class Unsupported(Exception):
    """A sample about what minidl does not have: complex numbers, sparse layouts, named memory formats, devices."""


def namesake(op: Any) -> Callable[..., Any] | None:
    """minidl's function, or else Tensor's method, called as PyTorch calls ``op`` or one of its aliases."""
    for name in (op.name, *(a.name for a in op.aliases)):
        *path, last = name.split(".")
        if name == "unfold":  # PyTorch has it as a method only; minidl.unfold is F.unfold
            return minidl.Tensor.unfold
        if path == ["nn", "functional"]:
            places = [F]
        elif path:
            place: Any = minidl
            for part in path:
                place = getattr(place, part, None)
            places = [place]
        else:
            places = [minidl, minidl.Tensor]
        for place in places:
            found = getattr(place, last, None) if place is not None else None
            if isinstance(found, property):
                return found.fget
            if callable(found):
                return found
    return None


def full_name(op: Any) -> str:
    """``norm``, or where PyTorch has several sets of samples ``norm.nuc``."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


#: every op of PyTorch's that minidl has, under its full name
OPS = {full_name(op): op for op in op_db if namesake(op) is not None}


@dataclasses.dataclass
class Case:
    """One sample: what an entry of the table of differences may look at."""

    name: str
    dtype: str
    backend: str
    input: Any
    args: tuple
    kwargs: dict
    #: the sample must raise
    error: bool = False
    #: what went otherwise than in PyTorch; empty if nothing did
    why: str = ""

    def __str__(self) -> str:
        given = ", ".join(map(_brief, (self.input, *self.args)))
        named = "".join(f", {k}={_brief(v)}" for k, v in self.kwargs.items())
        return f"{self.name}({given}{named}) {self.dtype} {self.backend}: {self.why}"


def _brief(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    if isinstance(x, (list, tuple)):
        return f"({', '.join(map(_brief, x))})"
    return repr(x)


# From PyTorch's values to minidl's


def as_numpy(t: torch.Tensor) -> np.ndarray:
    """The values, in memory laid out as that of ``t``."""
    if t.is_complex() or t.layout is not torch.strided or t.device.type != "cpu":
        raise Unsupported(str(t.dtype))
    if t.ndim > 64:
        raise Unsupported("more axes than NumPy has")
    if t.dtype == torch.bfloat16:
        return t.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.detach().numpy(force=True)  # (also of a tensor of zeros that PyTorch has not written down)


def dtype_of(dtype: torch.dtype) -> np.dtype:
    if dtype.is_complex or "float8" in str(dtype):
        raise Unsupported(str(dtype))
    return np.dtype(ml_dtypes.bfloat16) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype


def translated(x: Any, backend: Any) -> Any:
    """``x``, with minidl's things in place of PyTorch's."""
    if isinstance(x, torch.Tensor):
        return minidl.as_tensor(backend.asarray(as_numpy(x)), requires_grad=x.requires_grad)
    if isinstance(x, torch.dtype):
        return dtype_of(x)
    if isinstance(x, torch.Size):
        return tuple(x)
    if isinstance(x, complex) or type(x).__module__.startswith("torch"):
        raise Unsupported(type(x).__name__)
    if isinstance(x, list):
        return [translated(v, backend) for v in x]
    if isinstance(x, tuple):
        return tuple(translated(v, backend) for v in x)
    if isinstance(x, dict):
        return {k: translated(v, backend) for k, v in x.items()}
    return x


# Comparing


def flat(x: Any) -> list:
    if isinstance(x, (list, tuple)):
        return [leaf for v in x for leaf in flat(v)]
    return [x]


def unlike(ours: Any, theirs: Any, what: str = "result") -> str:
    """In what ``ours`` is not ``theirs``; empty if they agree."""
    mine, yours = flat(ours), flat(theirs)
    if len(mine) != len(yours):
        return f"{what}: {len(mine)} values, expected {len(yours)}"
    for a, b in zip(mine, yours):
        if isinstance(b, torch.Tensor):
            if not isinstance(a, minidl.Tensor):
                return f"{what}: {type(a).__name__}, expected a Tensor"
            if why := _unlike_array(to_numpy(a.array), as_numpy(b), what):
                return why
        elif isinstance(a, minidl.Tensor) or (a != b and not (a != a and b != b)):
            return f"{what}: {a!r}, expected {b!r}"
    return ""


def _unlike_array(a: np.ndarray, b: np.ndarray, what: str) -> str:
    if a.shape != b.shape:
        return f"{what}: shape {a.shape}, expected {b.shape}"
    if a.dtype != b.dtype:
        return f"{what}: dtype {a.dtype}, expected {b.dtype}"
    tolerance = TOLERANCE.get(b.dtype.name, 0)
    if b.dtype.kind in "fV":
        a, b = a.astype(np.float64), b.astype(np.float64)
        size = np.abs(b[np.isfinite(b)]).max(initial=1.0)
        same = np.isclose(a, b, rtol=tolerance, atol=tolerance * min(size, 1e3), equal_nan=True)
    else:
        same = a == b
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{what}: {a[at]!s} at {list(at)}, expected {b[at]!s} ({np.sum(~same)} of {same.size} differ)"


# Running


def _tensors(x: Any) -> list:
    return [t for t in flat([x]) if isinstance(t, (torch.Tensor, minidl.Tensor))]


def _wanting(sample: tuple) -> list:
    return [t for t in _tensors([*sample[:2], list(sample[2].values())]) if t.requires_grad]


def _gradients(outs: list, wanting: list, weights: list[np.ndarray], find: Callable[..., Any], convert: Any) -> list:
    """Of the sum of outputs times weights; zeros are as good as no gradient at all."""
    pairs = [(o, convert(w, o)) for o, w in zip(outs, weights) if o.requires_grad]
    if not pairs:
        return [None] * len(wanting)
    return list(find([o for o, _ in pairs], wanting, [w for _, w in pairs], allow_unused=True))


def differences(op: Any, case: Case, process: Callable[[Any], Any], backend: Any) -> str:
    """What minidl does otherwise than PyTorch on one sample: the result, then the gradient."""
    kwargs = {k: v for k, v in case.kwargs.items() if k not in MEANINGLESS}
    ours = namesake(op)
    assert ours is not None
    sample = translated((case.input, case.args, kwargs), backend)
    if case.error:
        try:
            ours(sample[0], *sample[1], **sample[2])
        except Exception:
            return ""
        return "nothing was raised"
    expected = op(case.input, *case.args, **case.kwargs)
    try:
        out = ours(sample[0], *sample[1], **sample[2])
        out, expected = process(out), process(expected)
        if why := unlike(out, expected):
            return why
        theirs = [t for t in _tensors(expected)]
        weights = [np.random.default_rng(0).standard_normal(tuple(t.shape)) for t in theirs]
        wanting = _wanting((case.input, case.args, kwargs))
        if not wanting or not any(t.requires_grad for t in theirs):
            return ""
        right = _gradients(theirs, wanting, weights, torch.autograd.grad, lambda w, o: torch.as_tensor(w).to(o.dtype))
        found = _gradients(
            _tensors(out), _wanting(sample), weights, gradients,
            lambda w, o: minidl.as_tensor(backend.asarray(w.astype(o.dtype))),
        )  # fmt: skip
        for i, (a, b, x) in enumerate(zip(found, right, wanting, strict=True)):
            zero = torch.zeros_like(x)
            a = minidl.as_tensor(backend.asarray(as_numpy(zero))) if a is None else a
            if why := unlike(a, zero if b is None else b, f"gradient {i}"):
                return why
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def _torch_refuses(op: Any, case: Case) -> bool:
    try:
        op(case.input, *case.args, **case.kwargs)
    except Exception:
        return True
    return False


def chosen(items: list, most: int | None) -> list:
    """At most ``most`` of the items, evenly spaced, always with the first and the last."""
    if most is None or len(items) <= most:
        return items
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)] if most > 1 else items[:1]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def cases(op: Any, dtype: str, most: int | None) -> Iterator[tuple[Case, Callable[[Any], Any]]]:
    """Samples of one dtype, with the function that takes from a result what is defined."""
    torch_dtype = getattr(torch, dtype)
    if torch_dtype not in op.dtypes:
        return
    wants = torch_dtype in op.supported_backward_dtypes("cpu") and op.supports_autograd
    for s in chosen(list(op.sample_inputs("cpu", torch_dtype, requires_grad=wants)), most):
        yield Case(full_name(op), dtype, "", s.input, s.args, s.kwargs), s.output_process_fn_grad


def error_cases(op: Any, most: int | None) -> Iterator[tuple[Case, Callable[[Any], Any]]]:
    """What PyTorch refuses."""
    if op.error_inputs_func is None:
        return
    for e in chosen(list(op.error_inputs("cpu")), most):
        s = e.sample_input
        yield Case(full_name(op), "error", "", s.input, s.args, s.kwargs, error=True), s.output_process_fn_grad


def tried(name: str, most: dict[str, int | None]) -> list[Case]:
    """All samples of an op on every backend, at most ``most[backend]`` of each dtype; ``why`` says what differs."""
    op, done = OPS[name], []
    with _quietly():
        for backend_name in BACKENDS:
            backend, limit = load(backend_name), most[backend_name]
            if limit == 0:
                continue
            samples = itertools.chain(*(cases(op, dtype, limit) for dtype in DTYPES), error_cases(op, limit))
            for case, process in samples:
                case.backend = backend_name
                try:
                    with minidl.backend.use_backend(backend_name):
                        case.why = differences(op, case, process, backend)
                except Unsupported:
                    continue
                done.append(case)
    return done
