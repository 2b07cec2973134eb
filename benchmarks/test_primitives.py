"""Single operations on every backend and in PyTorch, forward and backward, timed by pytest-benchmark:

    pytest benchmarks/test_primitives.py --benchmark-columns=median,iqr,rounds --benchmark-sort=median

One table per operation. Every result is compared with PyTorch's before it is timed. ``OMP_NUM_THREADS`` and
``NUMBA_NUM_THREADS`` set the number of threads, by default all cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional
import minidl.optim
from minidl.core.errors import BackendError

torch = pytest.importorskip("torch", reason="what is measured against")

BACKENDS = ("torch", "numpy", "numba", "jax")


class InTorch:
    """PyTorch, as the cases see it."""

    nn, optim, F = torch.nn, torch.optim, torch.nn.functional
    no_grad = torch.no_grad

    @staticmethod
    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array.copy()).requires_grad_(array.dtype.kind == "f")

    @staticmethod
    def numpy(tensor: Any) -> np.ndarray:
        return tensor.detach().numpy()

    @staticmethod
    def finish(tensor: Any) -> None:
        """Wait until it is computed."""

    @staticmethod
    def load(module: Any, weights: dict[str, np.ndarray]) -> None:
        module.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in weights.items()})


class InMinidl:
    """minidl on its active backend."""

    nn, optim, F = minidl.nn, minidl.optim, minidl.nn.functional
    no_grad = minidl.no_grad

    @staticmethod
    def tensor(array: np.ndarray) -> Any:
        return minidl.as_tensor(array.copy(), requires_grad=array.dtype.kind == "f")

    @staticmethod
    def numpy(tensor: Any) -> np.ndarray:
        return tensor.detach().numpy()

    @staticmethod
    def finish(tensor: Any) -> None:
        if hasattr(tensor.array, "block_until_ready"):
            tensor.array.block_until_ready()

    @staticmethod
    def load(module: Any, weights: dict[str, np.ndarray]) -> None:
        module.load_state_dict(weights)


Make = Callable[[Any, np.random.Generator], tuple[Callable[[], Any], list]]
#: by name: gives the forward function, and the tensors whose gradients are compared
CASES: dict[str, Make] = {}


def case(name: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[name] = make
        return make

    return add


def _normal(lib: Any, rng: np.random.Generator, *shape: int) -> Any:
    return lib.tensor(rng.standard_normal(shape, dtype=np.float32))


def _function(name: str, f: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """A case: ``f(F, *tensors)`` on random tensors."""

    @case(name)
    def make(lib, rng):
        tensors = [_normal(lib, rng, *s) for s in shapes]
        return lambda: f(lib.F, *tensors), tensors


_function("add 1024x1024", lambda F, x, y: x + y, (1024, 1024), (1024, 1024))
_function("gelu 768x512", lambda F, x: F.gelu(x), (768, 512))
_function("relu 1024x1024", lambda F, x: F.relu(x), (1024, 1024))
_function("tanh 1024x1024", lambda F, x: x.tanh(), (1024, 1024))
_function("sum of rows 1024x1024", lambda F, x: x.sum(-1), (1024, 1024))
_function("softmax 1024x1024", lambda F, x: F.softmax(x, -1), (1024, 1024))
_function("log_softmax 2048x65", lambda F, x: F.log_softmax(x, -1), (2048, 65))
_function("layer_norm 768x128", lambda F, x, w, b: F.layer_norm(x, (128,), w, b), (768, 128), (128,), (128,))
_function("matmul 512x512x512", lambda F, x, y: x @ y, (512, 512), (512, 512))
_function("linear 64x784 to 256", lambda F, x, w, b: F.linear(x, w, b), (64, 784), (256, 784), (256,))
_function("max_pool2d 2, 64x6x28x28", lambda F, x: F.max_pool2d(x, 2), (64, 6, 28, 28))
_function("avg_pool2d 2, 64x6x28x28", lambda F, x: F.avg_pool2d(x, 2), (64, 6, 28, 28))
for _name, _x, _w, _stride, _padding in [
    ("5x5, 64x1x28x28 to 6", (64, 1, 28, 28), (6, 1, 5, 5), 1, 2),
    ("5x5, 64x6x14x14 to 16", (64, 6, 14, 14), (16, 6, 5, 5), 1, 0),
    ("3x3, 32x64x32x32 to 64", (32, 64, 32, 32), (64, 64, 3, 3), 1, 1),
    ("3x3 stride 2, 32x64x32x32 to 128", (32, 64, 32, 32), (128, 64, 3, 3), 2, 1),
    ("3x3, 32x512x4x4 to 512", (32, 512, 4, 4), (512, 512, 3, 3), 1, 1),
    ("1x1 stride 2, 32x64x32x32 to 128", (32, 64, 32, 32), (128, 64, 1, 1), 2, 0),
]:
    _function(
        f"conv2d {_name}",
        lambda F, x, w, b, stride=_stride, padding=_padding: F.conv2d(x, w, b, stride=stride, padding=padding),
        _x, _w, _w[:1],
    )  # fmt: skip
_function(
    "causal attention 12x4x64x32",
    lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    *[(12, 4, 64, 32)] * 3,
)
_function(
    "causal attention 4x8x512x64",
    lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    *[(4, 8, 512, 64)] * 3,
)


@case("cross_entropy 2048x65")
def _cross_entropy(lib, rng):
    logits, target = _normal(lib, rng, 2048, 65), lib.tensor(rng.integers(0, 65, 2048))
    return lambda: lib.F.cross_entropy(logits, target), [logits]


@case("embedding 65x256, 32x64 tokens")
def _embedding(lib, rng):
    table, index = _normal(lib, rng, 65, 256), lib.tensor(rng.integers(0, 65, (32, 64)))
    return lambda: lib.F.embedding(index, table), [table]


def _module(lib: Any, rng: np.random.Generator, make: Callable[[Any], Any]) -> Any:
    """``make(lib.nn)`` with random weights, the same for every library."""
    net = make(lib.nn)
    weights = {
        n: (0.1 * rng.standard_normal(tuple(p.shape))).astype(np.float32) if "running" not in n else lib.numpy(p)
        for n, p in net.state_dict().items()
        if n != "num_batches_tracked"
    }
    if "num_batches_tracked" in net.state_dict():
        weights["num_batches_tracked"] = np.array(0)
    lib.load(net, weights)
    return net


@case("batch_norm 32x64x32x32")
def _batch_norm(lib, rng):
    net, x = _module(lib, rng, lambda nn: nn.BatchNorm2d(64)), _normal(lib, rng, 32, 64, 32, 32)
    return lambda: net(x), [x, net.weight, net.bias]


@case("lstm 256, 32x64")
def _lstm(lib, rng):
    net = _module(lib, rng, lambda nn: nn.LSTM(256, 256, batch_first=True))
    x = _normal(lib, rng, 32, 64, 256)
    return lambda: net(x)[0], [x, net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0]


@case("gru 256, 32x64")
def _gru(lib, rng):
    net = _module(lib, rng, lambda nn: nn.GRU(256, 256, batch_first=True))
    x = _normal(lib, rng, 32, 64, 256)
    return lambda: net(x)[0], [x, net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0]


UPDATES = {
    "sgd with momentum": lambda optim, params: optim.SGD(params, lr=0.01, momentum=0.9),
    "adamw": lambda optim, params: optim.AdamW(params, lr=1e-3),
}
#: weights of the MLP 784-256-128-10
SHAPES = ((256, 784), (256,), (128, 256), (128,), (10, 128), (10,))


@pytest.fixture
def lib(request):
    """The library called ``request.param``, with its backend active."""
    name = request.param
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    if name == "torch":
        yield InTorch
        return
    before = minidl.get_backend()
    try:
        minidl.set_backend(name)
    except BackendError as error:
        pytest.skip(str(error))
    yield InMinidl
    minidl.set_backend(before)


def _close(actual: np.ndarray, expected: np.ndarray) -> None:
    scale = float(np.abs(expected).max(initial=1.0))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("lib", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_forward(benchmark, lib, name):
    benchmark.group = f"{name}, forward"
    f, _ = CASES[name](lib, np.random.default_rng(0))
    expected, _ = CASES[name](InTorch, np.random.default_rng(0))
    with lib.no_grad():
        _close(lib.numpy(f()), InTorch.numpy(expected()))
        benchmark(lambda: lib.finish(f()))


@pytest.mark.parametrize("lib", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_backward(benchmark, lib, name):
    benchmark.group = f"{name}, backward"
    results = []
    for library in (lib, InTorch):
        rng = np.random.default_rng(0)
        f, tensors = CASES[name](library, rng)
        out = f()
        g = library.tensor(rng.standard_normal(tuple(out.shape), dtype=np.float32)).detach()
        out.backward(g)
        results.append((f, tensors, g, [library.numpy(t.grad) for t in tensors]))
    for actual, expected in zip(results[0][3], results[1][3]):
        _close(actual, expected)
    f, tensors, g, _ = results[0]

    def forward():
        for t in tensors:
            t.grad = None
        return (f(),), {}

    def backward(out):
        out.backward(g)
        for t in tensors:
            lib.finish(t.grad)

    benchmark.pedantic(backward, setup=forward, rounds=ROUNDS, warmup_rounds=3)


#: of backward and of updates, where each call needs a new start
ROUNDS = int(os.environ.get("BENCHMARK_ROUNDS", 50))


@pytest.mark.parametrize("lib", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", UPDATES)
def test_update(benchmark, lib, name):
    benchmark.group = f"{name}, parameters of an MLP"
    made = []
    for library in (lib, InTorch):
        rng = np.random.default_rng(0)
        params = [_normal(library, rng, *s) for s in SHAPES]
        for p in params:
            p.grad = _normal(library, rng, *p.shape).detach()
        optimizer = UPDATES[name](library.optim, params)
        for _ in range(3):
            optimizer.step()
        made.append((params, optimizer))
    for p, q in zip(made[0][0], made[1][0]):
        _close(lib.numpy(p), InTorch.numpy(q))
    params, optimizer = made[0]

    def step():
        optimizer.step()
        for p in params:
            lib.finish(p)

    benchmark.pedantic(step, rounds=ROUNDS, warmup_rounds=3)
