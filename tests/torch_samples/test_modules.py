"""Layers and losses that follow PyTorch's of the same name, on PyTorch's own samples: results, gradients, state."""

import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.autograd import gradients
from minidl.core.registry import load, to_numpy

pytest.importorskip("torch", reason="PyTorch's samples are the judge")
judge = importlib.import_module("tests.torch_samples.judge")
torch = judge.torch
module_db = importlib.import_module("torch.testing._internal.common_modules").module_db

#: every module of PyTorch's that minidl has. (The ``Lazy`` ones have samples of their own kind: tests/nn/test_lazy.py)
MODULES = {
    name: info for info in module_db if hasattr(nn, name := info.name.split(".")[-1]) and not name.startswith("Lazy")
}
#: samples of each backend and dtype: all of them, or so many
MOST = {"numpy": {"float64": None, "float32": 4}, "numba": {"float32": 6}, "jax": {"float32": 1}}


def samples(info, dtype: str, training: bool) -> Iterator[tuple]:
    torch.manual_seed(0)
    for sample in info.module_inputs_func(info, "cpu", getattr(torch, dtype), True, training):
        made, given = sample.constructor_input, sample.forward_input
        options = {k: v for k, v in made.kwargs.items() if k not in judge.MEANINGLESS | {"dtype"}}
        yield made.args, options, given.args, given.kwargs


def translated(args: tuple, options: dict, backend) -> tuple[list, dict]:
    """minidl's values for PyTorch's: its functions by name, and one object where PyTorch's sample has one twice."""
    known: dict[int, object] = {}

    def one(x):
        if type(x).__name__ == "builtin_function_or_method":
            return getattr(nn.functional, x.__name__)
        return known.setdefault(id(x), judge.translated(x, backend))

    return [one(a) for a in args], {k: one(v) for k, v in options.items()}


def through_log_softmax(g: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """PyTorch gives as ctc_loss' gradient what is right only behind a log_softmax: the same for both there."""
    return g - np.exp(log_probs) * g.sum(-1, keepdims=True)


def state(module) -> dict[str, np.ndarray]:
    return {name: np.array(to_numpy(getattr(v, "array", v))) for name, v in module.state_dict().items()}


def difference(name: str, sample: tuple, dtype: str, training: bool, backend) -> str:
    """What minidl's module does otherwise than PyTorch's on one sample; empty if nothing."""
    args, options, inputs, named = sample
    theirs = MODULES[name].module_cls(*args, **options).to(getattr(torch, dtype)).train(training)
    try:
        made, made_named = translated(args, options, backend)
        ours = getattr(nn, name)(*made, **made_named)
        ours = ours.to(dtype).train(training)
        ours.load_state_dict({n: t.numpy().copy() for n, t in theirs.state_dict().items()})
        given, given_named = translated(inputs, named, backend)
        expected, found = theirs(*inputs, **named), ours(*given, **given_named)
        if training and (name.startswith(("Dropout", "AlphaDropout", "FeatureAlpha")) or name == "RReLU"):
            return ""  # other random numbers
        if why := judge.unlike(found, expected):
            return why
        for key, value in state(theirs).items():
            if why := judge._unlike_array(state(ours)[key], value, f"state {key}"):
                return why
        want = judge._wanting((inputs, tuple(named.values()), {})) + list(theirs.parameters())
        have = judge._wanting((given, tuple(given_named.values()), {})) + list(ours.parameters())
        outs = [t for t in judge._tensors(expected) if t.requires_grad]
        if not outs or not want:
            return ""
        weights = [np.random.default_rng(0).standard_normal(tuple(t.shape)) for t in outs]
        right = judge._gradients(outs, want, weights, torch.autograd.grad, lambda w, o: torch.as_tensor(w).to(o.dtype))
        mine = [t for t in judge._tensors(found) if t.requires_grad]
        got = judge._gradients(mine, have, weights, gradients, lambda w, o: minidl.as_tensor(w.astype(o.dtype)))
        for i, (a, b, x) in enumerate(zip(got, right, want, strict=True)):
            zero = np.zeros(tuple(x.shape), dtype)
            a = zero if a is None else to_numpy(a.array)
            b = zero if b is None else b.numpy()
            if name == "CTCLoss":
                a, b = (through_log_softmax(g, x.detach().numpy()) for g in (a, b))
            if why := judge._unlike_array(a, b, f"gradient {i}"):
                return why
    except judge.Unsupported:
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return ""


@pytest.mark.parametrize("backend", MOST)
@pytest.mark.parametrize("name", sorted(MODULES))
def test_as_pytorch(name, backend):
    differ = []
    with warnings.catch_warnings(), minidl.use_backend(backend):
        warnings.simplefilter("ignore")
        for dtype, most in MOST[backend].items():
            for training in (True, False):
                for sample in judge.chosen(list(samples(MODULES[name], dtype, training)), most):
                    if why := difference(name, sample, dtype, training, load(backend)):
                        args, options, inputs, named = sample
                        differ.append(
                            f"{name}({args}, {options}) of ({', '.join(map(judge._brief, inputs))}; "
                            f"{ {k: judge._brief(v) for k, v in named.items()} }), {dtype}, training={training}: {why}"
                        )
    assert not differ, f"{len(differ)} differ\n" + "\n".join(differ[:6])


@pytest.mark.parametrize("name", sorted(n for n, info in MODULES.items() if info.module_error_inputs_func))
def test_refused_as_by_pytorch(name):
    info = MODULES[name]
    for error in info.module_error_inputs_func(info, "cpu", torch.float64, False, True):
        if "dtype" in error.error_regex or "scalar type" in error.error_regex:
            continue  # float32 with float64 gives float64, as in every operation of minidl's
        sample = error.module_error_input
        made, given = sample.constructor_input, sample.forward_input
        options = {k: v for k, v in made.kwargs.items() if k not in ("device", "dtype")}
        try:
            args, options = translated(made.args, options, load("numpy"))
            inputs, named = translated(given.args, given.kwargs, load("numpy")) if given else ((), {})
        except judge.Unsupported:
            continue
        with pytest.raises((ValueError, TypeError, IndexError, RuntimeError)):
            layer = getattr(nn, name)(*args, **options).to("float64")
            if given is None:
                pytest.fail(f"{name}{args} {options}: {error.error_regex}", pytrace=False)
            layer(*inputs, **named)
