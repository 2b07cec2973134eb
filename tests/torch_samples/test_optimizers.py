"""Optimizers that follow PyTorch's of the same name, on PyTorch's own choice of options: parameters after each step."""

import importlib

import numpy as np
import pytest

import minidl
from minidl import optim
from minidl.core.registry import to_numpy

torch = pytest.importorskip("torch", reason="PyTorch's samples are the judge")
optim_db = importlib.import_module("torch.testing._internal.common_optimizers").optim_db

OPTIMIZERS = {info.optim_cls.__name__: info for info in optim_db if hasattr(optim, info.optim_cls.__name__)}
#: PyTorch's choice between equal ways to compute
MEANINGLESS = {"foreach", "fused", "capturable", "differentiable"}
SHAPES = (3, 4), (5,), ()


def options(info) -> list[tuple[str, dict]]:
    """The samples' options, each once; those that differ only in how PyTorch computes are one."""
    found: dict[str, tuple[str, dict]] = {}
    for sample in info.optim_inputs_func("cpu"):
        kwargs = {k: v for k, v in sample.kwargs.items() if k not in MEANINGLESS}
        if not any(isinstance(v, torch.Tensor) for v in kwargs.values()) and sample.params is None:
            found.setdefault(repr(sorted(kwargs.items(), key=str)), (sample.desc, kwargs))
    return list(found.values())


CASES = [(name, desc, kwargs) for name, info in OPTIMIZERS.items() for desc, kwargs in options(info)]


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize(("name", "desc", "kwargs"), CASES, ids=[f"{n}-{d}" for n, d, _ in CASES])
def test_as_pytorch(name, desc, kwargs, backend):
    rng = np.random.default_rng(0)
    dtype = np.float32 if backend == "jax" else np.float64
    shapes = [s for s in SHAPES if len(s) == 2] if name == "Muon" else SHAPES
    start = [rng.standard_normal(s).astype(dtype) for s in shapes]
    with minidl.use_backend(backend):
        ours = [minidl.as_tensor(a.copy(), device=backend, requires_grad=True) for a in start]
        theirs = [torch.tensor(a, requires_grad=True) for a in start]
        mine = getattr(optim, name)(ours, **kwargs)
        other = OPTIMIZERS[name].optim_cls(theirs, **kwargs)
        for _ in range(6):
            for p, q in zip(ours, theirs):
                g = rng.standard_normal(tuple(p.shape)).astype(dtype)
                p.grad, q.grad = minidl.as_tensor(g, device=backend), torch.as_tensor(g)
            mine.step()
            other.step()
            for p, q in zip(ours, theirs):
                tolerance = 2e-5 if dtype == np.float32 else 1e-10
                if name == "Muon":
                    tolerance = 1e-3  # PyTorch's orthogonalizes in bfloat16
                np.testing.assert_allclose(to_numpy(p.array), q.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refused_as_by_pytorch(name):
    for error in OPTIMIZERS[name].optim_error_inputs_func("cpu", torch.float64):
        sample = error.optimizer_error_input
        if MEANINGLESS & set(sample.kwargs) or "Tensor" in sample.desc:
            continue
        params = sample.params
        if params is None:
            params = [minidl.as_tensor(np.ones(3), requires_grad=True)]
        elif isinstance(params, torch.Tensor):
            params = minidl.as_tensor(params.detach().numpy())
        elif isinstance(params, list):
            made: dict[int, object] = {}

            def ours(p, made=made):
                if isinstance(p, torch.Tensor):
                    return made.setdefault(id(p), minidl.as_tensor(p.detach().numpy(), requires_grad=True))
                if isinstance(p, dict):
                    return {k: ours(v) for k, v in p.items()}
                return [ours(q) for q in p] if isinstance(p, (list, tuple)) else p

            params = [ours(p) for p in params]
        kwargs = {k: v for k, v in sample.kwargs.items() if k not in MEANINGLESS}
        with pytest.raises((ValueError, TypeError)):
            getattr(optim, name)(params, **kwargs)
            pytest.fail(f"{name}: {sample.desc}: not refused ({error.error_regex})", pytrace=False)
