"""Nothing to do: empty batches, sequences of length 0, images without pixels, through every layer and loss.

The inputs are PyTorch's samples with one axis cut to length 0. Where PyTorch has a result, it is ours, or we refuse
with an error that says what was expected; where it refuses, what we give instead holds no NaN.
"""

import importlib
import warnings

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.core.registry import load
from minidl.train import metrics

pytest.importorskip("torch", reason="PyTorch's samples are the judge")
judge = importlib.import_module("tests.torch_samples.judge")
modules = importlib.import_module("tests.torch_samples.test_modules")
torch = judge.torch

OPTIMIZERS = [n for n, v in vars(optim).items() if isinstance(v, type) and issubclass(v, optim.Optimizer)]
OPTIMIZERS.remove("Optimizer")
OPTIMIZERS = [n for n, v in vars(optim).items() if isinstance(v, type) and issubclass(v, optim.Optimizer)]
OPTIMIZERS.remove("Optimizer")
#: with nothing to take a mean of, PyTorch returns whatever the memory held
UNDEFINED = {"MultiMarginLoss"}


def cut(x, axis: int, n: int):
    """``x`` with nothing along ``axis``, if it is ``n`` long there."""
    if not isinstance(x, torch.Tensor) or x.ndim <= axis or x.shape[axis] != n:
        return x
    return x.narrow(axis, 0, 0).detach().clone().requires_grad_(x.requires_grad)


def attempt(function):
    try:
        return function(), None
    except judge.Unsupported:
        raise
    except Exception as error:
        return None, error


def why_wrong(name: str, sample: tuple, axis: int, training: bool) -> str:
    args, options, inputs, named = sample
    n = inputs[0].shape[axis]
    inputs = tuple(cut(x, axis, n) for x in inputs)
    named = {k: cut(x, axis, n) for k, x in named.items()}
    theirs = modules.MODULES[name].module_cls(*args, **options).double().train(training)
    made, made_named = modules.translated(args, options, load("numpy"))
    ours = getattr(nn, name)(*made, **made_named).to("float64").train(training)
    ours.load_state_dict({k: v.numpy().copy() for k, v in theirs.state_dict().items()})
    given, given_named = modules.translated(inputs, named, load("numpy"))
    expected, refused = attempt(lambda: theirs(*inputs, **named))
    found, error = attempt(lambda: ours(*given, **given_named))
    if error is not None:
        clear = isinstance(error, (ValueError, TypeError, IndexError)) and len(str(error)) > 20
        return "" if clear else f"{type(error).__name__}: {error}"
    if refused is None:
        return "" if name in UNDEFINED else judge.unlike(found, expected)
    numbers = [t for t in judge._tensors(found) if np.isnan(t.detach().numpy()).any()]
    return "NaN where PyTorch refuses" if numbers and not name.endswith("Loss") else ""


@pytest.mark.parametrize("name", sorted(modules.MODULES))
def test_layers_and_losses(name):
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            for sample in judge.chosen(list(modules.samples(modules.MODULES[name], "float64", training)), 12):
                for axis in (0, 1, 2):
                    inputs = sample[2]
                    if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim > axis:
                        try:
                            why = why_wrong(name, sample, axis, training)
                        except judge.Unsupported:
                            continue
                        if why:
                            wrong.append(f"{sample[:2]} of {[judge._brief(x) for x in inputs]}, axis {axis}: {why}")
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("name", sorted(metrics.BY_NAME))
def test_metrics(name):
    metric = metrics.get(name)
    pairs = name in ("mse", "mae")
    empty = (np.zeros((0, 6)), np.zeros((0, 6))) if pairs else (np.zeros((0, 6)), np.zeros(0, np.int64))
    some = (np.eye(6), np.eye(6)) if pairs else (np.eye(6), np.arange(6))
    metric.update(*empty)
    assert np.all(np.isnan(metric.compute())) or np.all(metric.compute() == 0)
    metric.update(*some)
    alone = metrics.get(name)
    alone.update(*some)
    metric.update(*empty)
    np.testing.assert_array_equal(metric.compute(), alone.compute())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, backend, shape):
    if name == "Muon" and len(shape) < 2:
        pytest.skip("Muon is for matrices")
    with minidl.use_backend(backend):
        p = minidl.ones(shape, requires_grad=True)
        other = minidl.ones(2, 2, requires_grad=True)
        optimizer = getattr(optim, name)([p, other], lr=0.1)
        for _ in range(2):
            p.grad, other.grad = minidl.ones(shape), minidl.ones(2, 2)
            optimizer.step()
        assert p.shape == shape
        assert np.isfinite(p.detach().numpy()).all()
        assert np.isfinite(other.detach().numpy()).all()
        assert (other.detach().numpy() != 1).all()
