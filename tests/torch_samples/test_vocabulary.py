"""Functions that follow PyTorch's of the same name, on PyTorch's own samples: values, dtypes and gradients."""

import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl.core.registry import load

pytest.importorskip("torch", reason="PyTorch's samples are the judge")
judge = importlib.import_module("tests.torch_samples.judge")

WORDS = """
    trunc frac fmod exp2 log10 logaddexp2 xlogy atan2 hypot copysign nextafter gcd lcm bitwise_and bitwise_or
    bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift signbit isinf isposinf isneginf isclose isreal isin
    nan_to_num reciprocal deg2rad rad2deg sinc heaviside float_power fmax fmin clamp_min clamp_max lerp addcmul addcdiv
    rsub ldexp frexp digamma erfc erfinv i0 igamma igammac lgamma logit mvlgamma
    special.polygamma special.zeta special.entr special.erfcx special.i0e special.i1 special.i1e special.log_ndtr
    special.ndtr special.ndtri special.xlog1py special.bessel_j1 special.modified_bessel_k0
    addmm addmv addr baddbmm addbmm inner cross kron dist cdist diff renorm hstack vstack dstack column_stack
    tensor_split rot90 fliplr flipud ravel movedim meshgrid index_select index_add index_copy index_fill masked_select
    scatter_add take_along_dim argwhere cumprod kthvalue msort quantile
    nn.functional.pad nn.functional.pixel_shuffle nn.functional.pixel_unshuffle nn.functional.channel_shuffle
    nn.functional.unfold nn.functional.interpolate nn.functional.celu nn.functional.hardshrink
    nn.functional.softshrink nn.functional.tanhshrink nn.functional.threshold nn.functional.pdist
"""
NAMES = WORDS.split()
OPS = sorted(name for name in judge.OPS if judge.OPS[name].name in NAMES)
#: of each dtype, this many samples
MOST = {"numpy": {"float64": 12, "float32": 2, "int64": 2}, "numba": {"float32": 1}, "jax": {"float32": 1}}


def expected(case: "judge.Case") -> bool:
    """Differences that are meant."""
    numbers = all(not hasattr(a, "dtype") or a.ndim == 0 for a in (case.input, *case.args))
    # every operation takes Python's numbers in place of a tensor; ``out`` is served in one place for all
    return case.error and (
        "out" in case.kwargs or numbers or any(isinstance(a, (int, float)) for a in (case.input, *case.args))
    )


#: where equal elements have different indices, any of these is right: only samples without ties
WITHOUT_TIES = {"kthvalue"}


def tried(name: str, backend: str) -> Iterator["judge.Case"]:
    op = judge.OPS[name]
    for dtype, most in MOST[backend].items():
        if dtype == "int64" and op.name in WITHOUT_TIES:
            continue
        for case, process in judge.cases(op, dtype, most):
            case.backend = backend
            case.why = judge.differences(op, case, process, load(backend))
            yield case


@pytest.mark.parametrize("backend", MOST)
@pytest.mark.parametrize("name", OPS)
def test_as_pytorch(name, backend):
    with warnings.catch_warnings(), minidl.use_backend(backend):
        warnings.simplefilter("ignore")
        assert [str(case) for case in tried(name, backend) if case.why] == []


@pytest.mark.parametrize("name", OPS)
def test_refused_as_by_pytorch(name):
    op = judge.OPS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case, process in judge.error_cases(op, 8):
            try:
                case.why = judge.differences(op, case, process, load("numpy"))
            except judge.Unsupported:
                continue
            assert not case.why or expected(case), str(case)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": (1, 2), "padding": (2, 0)}])
def test_fold(options, rng):
    torch = judge.torch
    x = rng.normal(size=(2, 3, 6, 7))
    ours = minidl.as_tensor(F.unfold(minidl.as_tensor(x), 3, **options).numpy(), requires_grad=True)
    theirs = torch.as_tensor(ours.detach().numpy()).requires_grad_()
    out, expected = F.fold(ours, (6, 7), 3, **options), torch.nn.functional.fold(theirs, (6, 7), 3, **options)
    np.testing.assert_allclose(out.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    (out * x).sum().backward()
    (expected * torch.as_tensor(x)).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12)


def test_every_name_has_samples():
    assert set(NAMES) <= {op.name for op in judge.OPS.values()}
